//! The cost against the size of the fleet, as SVG.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::load::count;

/// A measured cost: what, for how many devices, and how many microseconds of the server and the database.
#[derive(Clone, Debug)]
pub struct Point {
    pub line: String,
    pub devices: usize,
    pub micros: f64,
}

const WIDTH: f64 = 860.0;
const HEIGHT: f64 = 520.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 330.0;
const TOP: f64 = 40.0;
const BOTTOM: f64 = 60.0;
/// Colors that can be told apart on white and on black.
const COLORS: &[&str] = &["#3b7dd8", "#d9822b", "#2e9e6b", "#c9463d", "#8e63c7", "#8a7a2f", "#d06aa5", "#4aa3b5"];

/// Both axes are logarithmic: a line that is level costs the same in each fleet.
pub fn draw(points: &[Point]) -> String {
    let mut lines: BTreeMap<&str, Vec<(usize, f64)>> = BTreeMap::new();
    for point in points.iter().filter(|point| point.micros > 0.0) {
        lines.entry(&point.line).or_default().push((point.devices, point.micros));
    }
    let devices = || points.iter().map(|point| count(point.devices).log10());
    let micros = || points.iter().filter(|point| point.micros > 0.0).map(|point| point.micros.log10());
    let ends = |least: f64, most: f64| if least < most { (least, most) } else { (least - 0.5, least + 0.5) };
    let (x0, x1) = ends(devices().fold(f64::MAX, f64::min), devices().fold(f64::MIN, f64::max));
    let (y0, y1) = ends(micros().fold(f64::MAX, f64::min).floor(), micros().fold(f64::MIN, f64::max).ceil());
    let x = |devices: usize| LEFT + (count(devices).log10() - x0) / (x1 - x0) * (WIDTH - LEFT - RIGHT);
    let y = |log: f64| HEIGHT - BOTTOM - (log - y0) / (y1 - y0) * (HEIGHT - TOP - BOTTOM);

    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" \
         aria-label=\"Cost of each kind of work against the number of enrolled devices\" \
         font-family=\"system-ui, sans-serif\" font-size=\"13\">\n\
         <style>.ink{{fill:#222}}.axis{{stroke:#999}}.grid{{stroke:#ddd}}.back{{fill:#fff}}\
         @media (prefers-color-scheme:dark){{.ink{{fill:#ddd}}.axis{{stroke:#888}}.grid{{stroke:#333}}.back{{fill:#111}}}}\
         </style>\n<rect class=\"back\" width=\"{WIDTH}\" height=\"{HEIGHT}\"/>\n\
         <text class=\"ink\" x=\"{LEFT}\" y=\"24\">microseconds of processor time, server and database together</text>\n"
    );
    let mut decade = y0;
    while decade <= y1 + 0.001 {
        let (at, value) = (y(decade), 10_f64.powf(decade));
        let _ = writeln!(
            out,
            "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{:.1}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/>\
             <text class=\"ink\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{value}</text>",
            WIDTH - RIGHT,
            LEFT - 8.0,
            at + 4.0
        );
        decade += 1.0;
    }
    let mut sizes: Vec<_> = points.iter().map(|point| point.devices).collect();
    sizes.sort_unstable();
    sizes.dedup();
    for size in sizes {
        let (at, foot) = (x(size), HEIGHT - BOTTOM);
        let _ = writeln!(
            out,
            "<line class=\"axis\" x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"{foot:.1}\" y2=\"{:.1}\"/>\
             <text class=\"ink\" x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{size}</text>",
            foot + 5.0,
            foot + 20.0
        );
    }
    let _ =
        writeln!(out, "<text class=\"ink\" x=\"{LEFT}\" y=\"{:.1}\">enrolled devices</text>", HEIGHT - BOTTOM + 42.0);
    let rows = lines.len().max(1);
    let step = ((HEIGHT - TOP - BOTTOM) / count(rows)).min(18.0);
    for (number, (name, mut line)) in lines.into_iter().enumerate() {
        line.sort_by_key(|(devices, _)| *devices);
        let color = COLORS.get(number % COLORS.len()).copied().unwrap_or("#888");
        let dash = if (number / COLORS.len()).is_multiple_of(2) { "" } else { " stroke-dasharray=\"5 3\"" };
        let path: Vec<_> =
            line.iter().map(|(devices, micros)| format!("{:.1},{:.1}", x(*devices), y(micros.log10()))).collect();
        let _ = writeln!(
            out,
            "<polyline fill=\"none\" stroke=\"{color}\" stroke-width=\"2\"{dash} points=\"{}\"/>",
            path.join(" ")
        );
        for (devices, micros) in &line {
            let _ = writeln!(
                out,
                "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"3\" fill=\"{color}\"/>",
                x(*devices),
                y(micros.log10())
            );
        }
        let at = TOP + 8.0 + step * count(number);
        let begin = WIDTH - RIGHT + 20.0;
        let _ = writeln!(
            out,
            "<line x1=\"{begin:.1}\" x2=\"{:.1}\" y1=\"{at:.1}\" y2=\"{at:.1}\" stroke=\"{color}\" stroke-width=\"2\"{dash}/>\
             <text class=\"ink\" x=\"{:.1}\" y=\"{:.1}\" font-size=\"11\">{}</text>",
            begin + 18.0,
            begin + 24.0,
            at + 4.0,
            escape(name)
        );
    }
    out.push_str("</svg>\n");
    out
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
