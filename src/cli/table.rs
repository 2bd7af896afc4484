//! Tables as text, for people and for `awk`: columns by spaces, no frames, no line that ends with spaces.

use comfy_table::{ContentArrangement, Table, presets};

/// A table with these heads.
pub(super) fn with_header<const N: usize>(heads: [&str; N]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(heads);
    table
}

/// Its lines, without the space before the first column.
pub(super) fn text(table: &Table) -> String {
    table.lines().map(|line| format!("{}\n", line.strip_prefix(' ').unwrap_or(&line).trim_end())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_stay_below_their_heads() {
        let mut table = with_header(["", "ADDED"]);
        table.add_row(["devices", "3"]);
        assert_eq!(text(&table), "         ADDED\ndevices  3\n");
    }
}
