//! Data on stdout.

use std::io;

use comfy_table::{Cell, CellAlignment, Table, presets};
use pelton_engine::text::printable;
use serde::Serialize;

use crate::terminal;

/// Pretty JSON and a newline.
pub(super) fn json(value: &impl Serialize) -> io::Result<()> {
    terminal::say_json(value)
}

/// One line of text.
pub(super) fn line(text: &str) -> io::Result<()> {
    terminal::say(text)
}

/// A table without borders, readable without colour; columns named in `right` are right-aligned.
pub(super) fn table(header: &[&str], right: &[&str], rows: Vec<Vec<String>>) -> io::Result<()> {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(header.iter().map(Cell::new));
    for row in rows {
        table.add_row(row.iter().map(|cell| printable(cell)));
    }
    for (name, column) in header.iter().zip(table.column_iter_mut()) {
        column.set_padding((0, 2));
        if right.contains(name) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    terminal::say_lines(&table.trim_fmt())
}

/// 1234567 as `1,234,567`.
pub(super) fn count(value: u64) -> String {
    let digits = value.to_string();
    let mut text = String::new();
    for (idx, digit) in digits.chars().enumerate() {
        if idx > 0 && (digits.len() - idx).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Bytes as `1.5 MiB`.
pub(super) fn mebibytes(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_shown_in_mebibytes() {
        for (bytes, text) in [(0, "0.0 MiB"), (1 << 19, "0.5 MiB"), (20 << 30, "20480.0 MiB")] {
            assert_eq!(mebibytes(bytes), text);
        }
    }

    #[test]
    fn counts_have_separators() {
        for (value, text) in [(0, "0"), (999, "999"), (1000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(count(value), text);
        }
    }
}
