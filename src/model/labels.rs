//! Tables of label embeddings: classes, subjects, drawing styles.

use serde::{Deserialize, Serialize};

/// One embedding table that conditions the model: classes, subjects, drawing styles.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LabelTable {
    /// What the table is about, in one word: `class`, `subject`, `style`.
    pub name: String,
    /// Name of the tensor, shape `[values + 1, D]`.
    pub tensor: String,
    /// The row that means "no label", used for the unconditional pass of guidance.
    pub null: u32,
    /// The name of each row before the null row; empty if the checkpoint has none.
    #[serde(default)]
    pub values: Vec<String>,
}

impl LabelTable {
    /// Finds a row by its name (case-insensitive, spaces and dashes ignored) or by its number.
    pub fn find(&self, text: &str) -> Option<u32> {
        let fold = |s: &str| -> String {
            s.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect()
        };
        let wanted = fold(text);
        if let Some(i) = self.values.iter().position(|v| fold(v) == wanted) {
            return Some(i as u32);
        }
        text.parse::<u32>().ok().filter(|&n| n < self.null)
    }

    /// The name of a row, or its number where the table has no names.
    pub fn label(&self, row: u32) -> String {
        self.values.get(row as usize).cloned().unwrap_or_else(|| row.to_string())
    }
}

/// A label of each table that is blended into those of the images: the embedding of a label becomes
/// `(1 − strength)·row + strength·other row`, before it is added to that of the time.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LabelMix {
    /// For each label table the other row, the null row included; `None` leaves the labels of a table as they are. May be
    /// shorter than the list of tables.
    pub rows: Vec<Option<u32>>,
    /// Share of the other rows, from 0 (none) to 1 (nothing else).
    pub strength: f32,
}

impl LabelMix {
    /// The share of the other rows unless somebody says another one.
    pub const USUAL: f32 = 0.5;

    /// What a sample with this row of a table gets.
    pub(crate) fn of(&self, table: usize, row: u32) -> LabelRow {
        match self.rows.get(table) {
            Some(&Some(other)) if other != row && self.strength > 0.0 => {
                // The whole of a row is that row, to the bit.
                if self.strength < 1.0 {
                    LabelRow { rows: [row, other], share: self.strength }
                } else {
                    other.into()
                }
            }
            _ => row.into(),
        }
    }
}

/// What a sample gets from a label table: a row, or a blend of two.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct LabelRow {
    pub(crate) rows: [u32; 2],
    /// Share of the second row, below 1; 0 where there is nothing to blend.
    pub(crate) share: f32,
}

impl LabelRow {
    /// Whether it is this row alone.
    pub(crate) fn is(self, row: u32) -> bool {
        self.share == 0.0 && self.rows[0] == row
    }
}

impl From<u32> for LabelRow {
    fn from(row: u32) -> Self {
        Self { rows: [row; 2], share: 0.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_of_a_blend_and_blends_of_equals_are_plain_rows() {
        let mix = |strength| LabelMix { rows: vec![None, Some(4)], strength };
        assert_eq!(mix(0.25).of(1, 3), LabelRow { rows: [3, 4], share: 0.25 });
        for (strength, table, row, want) in
            [(0.0, 1, 3, 3), (1.0, 1, 3, 4), (0.5, 1, 4, 4), (0.5, 0, 3, 3), (0.5, 2, 3, 3)]
        {
            assert_eq!(mix(strength).of(table, row), want.into(), "{strength}, table {table}");
        }
    }

    #[test]
    fn labels_are_found_by_name_or_number() {
        let table = LabelTable {
            name: "class".into(),
            tensor: String::new(),
            null: 10,
            values: vec!["AnnualCrop".into(), "Sea Lake".into()],
        };
        assert_eq!(table.find("annual-crop"), Some(0));
        assert_eq!(table.find("sealake"), Some(1));
        assert_eq!(table.find("7"), Some(7));
        assert_eq!(table.find("10"), None, "the null row is no class");
        assert_eq!(table.find("volcano"), None);
    }
}
