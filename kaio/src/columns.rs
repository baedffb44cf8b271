//! [`Columns`]: formats a table.

use std::fmt;

/// Rows of cells. The first column is aligned left, the others right; each is as wide as its widest
/// cell.
pub(crate) struct Columns<'a>(pub(crate) &'a [Vec<String>]);

impl fmt::Display for Columns<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns = self.0.iter().map(Vec::len).max().unwrap_or_default();
        let width = |column: usize| {
            let cells = self.0.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<_> = (0..columns).map(width).collect();
        for row in self.0 {
            let mut line = String::new();
            for (i, (cell, width)) in row.iter().zip(&widths).enumerate() {
                line += &match i {
                    0 => format!("{cell:<width$}"),
                    _ => format!("  {cell:>width$}"),
                };
            }
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_of_a_column_are_aligned() {
        let row = |cells: [&str; 3]| cells.map(String::from).to_vec();
        let rows = [
            row(["", "IOPS", "µs"]),
            row(["bare", "7", "12.5"]),
            row(["kaio", "123456", "–"]),
        ];
        let expected = "        IOPS    µs\nbare       7  12.5\nkaio  123456     –\n";
        assert_eq!(Columns(&rows).to_string(), expected);
    }
}
