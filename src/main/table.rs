//! Tables for people: columns as wide as what stands in them.

use crate::user::say;

/// A table with a heading.
pub(crate) struct Table<const COLUMNS: usize>(Vec<[String; COLUMNS]>);

impl<const COLUMNS: usize> Table<COLUMNS> {
    /// Without rows.
    pub(crate) fn new(heading: [&str; COLUMNS]) -> Self {
        Self(vec![heading.map(ToOwned::to_owned)])
    }

    /// Adds a row.
    pub(crate) fn row(&mut self, row: [String; COLUMNS]) {
        self.0.push(row);
    }

    /// Whether there is nothing but the heading.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.len() <= 1
    }

    fn lines(&self) -> Vec<String> {
        let mut widths = [0; COLUMNS];
        for row in &self.0 {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        let line = |row: &[String; COLUMNS]| {
            let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}  "));
            cells.collect::<String>().trim_end().to_owned()
        };
        self.0.iter().map(line).collect()
    }

    /// Prints it.
    pub(crate) fn print(&self) -> anyhow::Result<()> {
        self.lines().iter().try_for_each(|line| say(line))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_what_stands_in_them() {
        let mut table = Table::new(["NAME", "USES"]);
        assert!(table.is_empty());
        table.row(["for-the-team".to_owned(), "5".to_owned()]);
        assert_eq!(table.lines(), ["NAME          USES", "for-the-team  5"]);
    }
}
