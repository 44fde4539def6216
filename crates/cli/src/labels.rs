//! Labels as a user writes them.

use diffmoe::model::LabelTable;

/// A row of a label table by name or number, or an error that shows what there is.
pub(super) fn resolve(table: &LabelTable, text: &str) -> Result<u32, String> {
    if text.eq_ignore_ascii_case("any") {
        return Ok(table.null);
    }
    table.find(text).ok_or_else(|| {
        const SHOWN: usize = 12;
        let wanted = text.to_lowercase();
        let near = |v: &&String| {
            let v = v.to_lowercase();
            v.contains(&wanted) || wanted.contains(&v)
        };
        let mut shown: Vec<_> = table.values.iter().filter(near).take(SHOWN).cloned().collect();
        if shown.is_empty() {
            shown = table.values.iter().take(SHOWN).cloned().collect();
        }
        let more = if shown.len() < table.values.len() { ", …" } else { "" };
        let numbers = table.null.saturating_sub(1);
        if shown.is_empty() {
            format!("unknown {} {text:?}: expected a number from 0 to {numbers}", table.name)
        } else {
            format!(
                "unknown {} {text:?}: expected a number from 0 to {numbers} or a name: {}{more}",
                table.name,
                shown.join(", ")
            )
        }
    })
}
