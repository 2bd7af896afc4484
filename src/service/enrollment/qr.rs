//! QR codes, for a phone's camera.

use qrcode::render::svg;
use qrcode::{Color, EcLevel, QrCode};

use super::super::Error;

/// The width of one module of the code, in pixels.
const PIXELS: usize = 8;
/// The white border around the code, in modules (ISO/IEC 18004 wants four).
const QUIET: usize = 4;

/// A QR code as SVG.
///
/// # Errors
/// [`Error::Internal`] for more than a QR code can hold.
pub fn svg(text: &str) -> Result<String, Error> {
    let code = code(text)?;
    Ok(code.render::<svg::Color<'_>>().min_dimensions(256, 256).quiet_zone(true).build())
}

/// A QR code as PNG, black and white.
///
/// # Errors
/// [`Error::Internal`] for more than a QR code can hold.
pub fn png(text: &str) -> Result<Vec<u8>, Error> {
    let code = code(text)?;
    let modules = code.width() + 2 * QUIET;
    let side = modules * PIXELS;
    let mut bits = Vec::with_capacity(side * side.div_ceil(8));
    for y in 0..side {
        for byte in 0..side.div_ceil(8) {
            let white = (0..8).fold(0_u8, |bits, bit| {
                let x = byte * 8 + bit;
                (bits << 1) | u8::from(!is_dark(&code, x / PIXELS, y / PIXELS))
            });
            bits.push(white);
        }
    }
    let failed = |e: png::EncodingError| Error::Internal(format!("a QR code cannot be written: {e}"));
    let side = u32::try_from(side).map_err(|e| Error::Internal(e.to_string()))?;
    let mut out = Vec::new();
    let mut encoder = png::Encoder::new(&mut out, side, side);
    encoder.set_color(png::ColorType::Grayscale);
    encoder.set_depth(png::BitDepth::One);
    let mut writer = encoder.write_header().map_err(failed)?;
    writer.write_image_data(&bits).map_err(failed)?;
    writer.finish().map_err(failed)?;
    Ok(out)
}

fn code(text: &str) -> Result<QrCode, Error> {
    QrCode::with_error_correction_level(text, EcLevel::M)
        .map_err(|e| Error::Internal(format!("a QR code cannot be made: {e}")))
}

/// Whether a module is dark, counted from the corner of the border.
fn is_dark(code: &QrCode, x: usize, y: usize) -> bool {
    let (Some(x), Some(y)) = (x.checked_sub(QUIET), y.checked_sub(QUIET)) else { return false };
    x < code.width() && y < code.width() && matches!(code[(x, y)], Color::Dark)
}

#[cfg(test)]
mod tests {
    use super::*;

    const URL: &str = "https://mdm.example.org/enroll/abcdefghijklmnopqrstuvwxyz234567";

    #[test]
    fn both_forms_show_the_same_modules() {
        let png = png(URL).unwrap();
        let mut reader = png::Decoder::new(std::io::Cursor::new(png)).read_info().unwrap();
        let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
        let info = reader.next_frame(&mut pixels).unwrap();
        let code = code(URL).unwrap();
        let side = (code.width() + 2 * QUIET) * PIXELS;
        assert_eq!((info.width as usize, info.height as usize), (side, side));
        let white = |x: usize, y: usize| pixels[y * info.line_size + x / 8] & (0x80 >> (x % 8)) != 0;
        assert!(white(0, 0) && white(side - 1, side - 1), "a quiet border");
        for (y, x) in (0..code.width()).flat_map(|y| (0..code.width()).map(move |x| (y, x))) {
            let at = |module: usize| (module + QUIET) * PIXELS + 3;
            assert_eq!(!white(at(x), at(y)), code[(x, y)] == Color::Dark, "{x} {y}");
        }
        let svg = svg(URL).unwrap();
        assert!(svg.starts_with("<?xml") && svg.contains("<svg") && !svg.contains("mdm.example.org"));
    }

    #[test]
    fn what_is_too_long_is_an_error() {
        assert!(svg(&"x".repeat(5000)).is_err());
    }
}
