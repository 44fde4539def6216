//! The begin, end and padding tokens of a prompt, for every kind of tokenizer.

use serde::Deserialize;
use serde_json::Value;

use super::TokenizerError;
use super::document::{Document, kind, known, stages, unsupported};

/// Names of special tokens, for files that do not define begin and end tokens (such as GPT-2's).
/// They take precedence over the file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SpecialTokens {
    /// Before every prompt.
    pub begin: Option<String>,
    /// After every prompt.
    pub end: Option<String>,
    /// What a prompt is filled up with; no token ever looks at it.
    pub pad: Option<String>,
}

/// The entries' numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ends {
    pub(super) begin: u32,
    pub(super) end: u32,
    pub(super) pad: u32,
}

impl Ends {
    /// From the names that are given, else from the file's post-processor and padding, else by BERT's names.
    /// Without a padding token, the end token pads, as in CLIP.
    pub(super) fn find(
        document: &Document,
        named: &SpecialTokens,
        find: &dyn Fn(&str) -> Option<u32>,
    ) -> Result<Self, TokenizerError> {
        let [first, last] = match post_processor(&document.post_processor)? {
            Some([first, last]) => [Some(first), Some(last)],
            None => [find("[CLS]"), find("[SEP]")],
        };
        let given = |entry: &Option<String>| {
            let entry = entry.as_deref();
            entry.map(|entry| known(entry, find, "special_tokens names")).transpose()
        };
        let begin = given(&named.begin)?.or(first).ok_or(TokenizerError::Ends)?;
        let end = given(&named.end)?.or(last).ok_or(TokenizerError::Ends)?;
        let pad = given(&named.pad)?;
        let padding = document.padding.as_ref().map(|padding| padding.pad_id);
        let usual = || ["[PAD]", "<pad>"].iter().find_map(|entry| find(entry));
        let pad = pad.or(padding).or_else(usual).unwrap_or(end);
        Ok(Self { begin, end, pad })
    }

    pub(super) fn largest(&self) -> u32 {
        self.begin.max(self.end).max(self.pad)
    }
}

/// Whether a template adds nothing to the text.
fn is_text_alone(template: &Value) -> bool {
    let parts = template.as_array().map_or(&[][..], |list| list);
    matches!(parts, [text] if text["Sequence"]["id"] == "A")
}

/// What the file puts before and after a text; nothing where it puts nothing.
fn post_processor(part: &Value) -> Result<Option<[u32; 2]>, TokenizerError> {
    const SUPPORTED: &str = "BertProcessing, RobertaProcessing and a TemplateProcessing with one token before and one after the text are";
    let refused = |found: &str| Err(unsupported("post_processor", found, SUPPORTED));
    // A ByteLevel only corrects positions, which are not used here.
    let parts = stages(part, "processors").into_iter().filter(|part| kind(part) != "ByteLevel");
    let parts: Vec<&Value> = parts.collect();
    let [part] = parts[..] else {
        return if parts.is_empty() { Ok(None) } else { refused("a list of several") };
    };
    let number = |value: &Value| value.as_u64().and_then(|n| u32::try_from(n).ok());
    let ends = match kind(part) {
        "BertProcessing" | "RobertaProcessing" => {
            [number(&part["cls"][1]), number(&part["sep"][1])]
        }
        // A template of the text alone, as GPT-2's has since version 5 of transformers.
        "TemplateProcessing" if is_text_alone(&part["single"]) => return Ok(None),
        "TemplateProcessing" => {
            let [first, text, last] = part["single"].as_array().map_or(&[][..], |list| list) else {
                return refused("another TemplateProcessing");
            };
            if text["Sequence"]["id"] != "A" {
                return refused("another TemplateProcessing");
            }
            let entry = |piece: &Value| {
                let name = piece["SpecialToken"]["id"].as_str()?;
                match part["special_tokens"][name]["ids"].as_array()?.as_slice() {
                    [id] => number(id),
                    _ => None,
                }
            };
            [entry(first), entry(last)]
        }
        other => return refused(other),
    };
    match ends {
        [Some(begin), Some(end)] => Ok(Some([begin, end])),
        _ => refused(&format!("a {} without two numbers", kind(part))),
    }
}
