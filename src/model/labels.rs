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

#[cfg(test)]
mod tests {
    use super::*;

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
