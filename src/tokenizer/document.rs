//! Reading a `tokenizer.json`: the supported parts; everything else is rejected.
//!
//! Such a file names a component for each stage. Unsupported components are rejected by name, because leaving one
//! out would give other token ids than the model was trained with.

use std::collections::HashMap;

use serde::Deserialize;
use serde_json::Value;
use tokenizers::Model;
use tokenizers::models::bpe::{BPE, BpeBuilder};
use tokenizers::models::wordpiece::WordPiece;
use tokenizers::normalizers::{BertNormalizer, Lowercase, NFC};
use tokenizers::pre_tokenizers::bert::BertPreTokenizer;

use super::{Cleaning, Pieces, Splitting, TokenizerError, words};

/// The sections of a file that matter to a prompt's numbers.
#[derive(Deserialize)]
pub(super) struct Document {
    #[serde(default)]
    pub(super) normalizer: Value,
    #[serde(default)]
    pub(super) pre_tokenizer: Value,
    #[serde(default)]
    pub(super) post_processor: Value,
    #[serde(default)]
    pub(super) padding: Option<Padding>,
    #[serde(default)]
    pub(super) added_tokens: Vec<AddedToken>,
    pub(super) model: Value,
}

#[derive(Deserialize)]
pub(super) struct Padding {
    pub(super) pad_id: u32,
    #[serde(default)]
    direction: Option<String>,
}

impl Padding {
    /// Prompts are filled up behind their end, as the text encoder was trained.
    pub(super) fn check(&self) -> Result<(), TokenizerError> {
        match self.direction.as_deref() {
            None | Some("Right") => Ok(()),
            Some(other) => Err(unsupported(
                "padding",
                format!("on the side {other:?}"),
                "padding on the right is",
            )),
        }
    }
}

#[derive(Deserialize)]
pub(super) struct AddedToken {
    pub(super) id: u32,
    pub(super) content: String,
    #[serde(default)]
    special: bool,
}

pub(super) fn unsupported(
    part: &'static str,
    found: impl Into<String>,
    supported: &'static str,
) -> TokenizerError {
    TokenizerError::Unsupported { part, found: found.into(), supported }
}

/// A part's name in the file, or `none`.
pub(super) fn kind(part: &Value) -> &str {
    part["type"].as_str().unwrap_or(if part.is_null() { "none" } else { "of no type" })
}

/// The stages of a part that may be a `Sequence` of others.
pub(super) fn stages<'v>(part: &'v Value, list: &str) -> Vec<&'v Value> {
    match part[list].as_array() {
        Some(parts) if kind(part) == "Sequence" => {
            parts.iter().flat_map(|part| stages(part, list)).collect()
        }
        _ if part.is_null() => Vec::new(),
        _ => vec![part],
    }
}

/// What is done to the text before it is split.
pub(super) fn cleaning(normalizer: &Value) -> Result<Vec<Cleaning>, TokenizerError> {
    let stage = |part: &Value| match kind(part) {
        "BertNormalizer" => Ok(Cleaning::Bert(BertNormalizer::deserialize(part)?)),
        "NFC" => Ok(Cleaning::Nfc(NFC)),
        "Lowercase" => Ok(Cleaning::Lowercase(Lowercase)),
        "Replace" if part["pattern"]["Regex"] == r"\s+" && part["content"] == " " => {
            Ok(Cleaning::Spaces)
        }
        "Replace" => Err(unsupported(
            "normalizer",
            format!("a Replace of {}", part["pattern"]),
            r"a Replace may only turn \s+ into a single space",
        )),
        other => Err(unsupported(
            "normalizer",
            other,
            "BertNormalizer, NFC, Lowercase and a Replace of spaces are",
        )),
    };
    stages(normalizer, "normalizers").into_iter().map(stage).collect()
}

/// How text becomes words.
pub(super) fn splitting(pre_tokenizer: &Value) -> Result<Splitting, TokenizerError> {
    const SUPPORTED: &str = "BertPreTokenizer, ByteLevel with its own expression, and CLIP's Split before a ByteLevel are";
    let stages = stages(pre_tokenizer, "pretokenizers");
    let kinds: Vec<&str> = stages.iter().map(|part| kind(part)).collect();
    let refused = |found: &str| Err(unsupported("pre_tokenizer", found, SUPPORTED));
    let prefix = |part: &Value| part["add_prefix_space"].as_bool().unwrap_or(true);
    match (&kinds[..], &stages[..]) {
        (["BertPreTokenizer"], _) => Ok(Splitting::Bert(BertPreTokenizer)),
        (["ByteLevel"], [bytes]) if bytes["use_regex"] == false => {
            refused("a ByteLevel that does not split")
        }
        (["ByteLevel"], [bytes]) => Ok(Splitting::Gpt2 { prefix: prefix(bytes) }),
        (["Split", "ByteLevel"], [split, bytes]) => {
            let is_clip = split["pattern"]["Regex"].as_str().is_some_and(words::is_clip)
                && split["behavior"] == "Removed"
                && split["invert"] == true;
            match (is_clip, prefix(bytes)) {
                (true, false) => Ok(Splitting::Clip),
                (true, true) => refused("CLIP's Split with a space before every word"),
                (false, _) => refused(&format!("a Split by {}", split["pattern"])),
            }
        }
        ([], _) => refused("none"),
        (kinds, _) => refused(&kinds.join(", then ")),
    }
}

/// The vocabulary. Everything in it that the crate would only find out while splitting is checked here.
pub(super) fn pieces(model: &Value) -> Result<Pieces, TokenizerError> {
    // Older files leave the name of the model out.
    let is_bpe = kind(model) == "BPE" || model["type"].is_null() && model["merges"].is_array();
    if is_bpe {
        return bpe(BpeSection::deserialize(model)?).map(Pieces::Bpe);
    }
    if kind(model) != "WordPiece" {
        return Err(unsupported("model", kind(model), "WordPiece and BPE are"));
    }
    // By way of text, because the crate reads its type as a borrowed string.
    let pieces: WordPiece = serde_json::from_str(&model.to_string())?;
    known(pieces.unk_token.as_str(), &|entry| pieces.token_to_id(entry), "unk_token names")?;
    Ok(Pieces::WordPiece(pieces))
}

/// The number of an entry that has to be there.
pub(super) fn known(
    entry: &str,
    find: &dyn Fn(&str) -> Option<u32>,
    who: &'static str,
) -> Result<u32, TokenizerError> {
    find(entry).ok_or_else(|| TokenizerError::Missing { entry: entry.to_owned(), who })
}

/// The `model` section of a BPE.
#[derive(Deserialize)]
struct BpeSection {
    dropout: Option<f32>,
    unk_token: Option<String>,
    continuing_subword_prefix: Option<String>,
    end_of_word_suffix: Option<String>,
    #[serde(default)]
    fuse_unk: bool,
    #[serde(default)]
    byte_fallback: bool,
    #[serde(default)]
    ignore_merges: bool,
    vocab: HashMap<String, u32>,
    merges: Vec<Merge>,
}

/// Two entries that become one; older files write them as one line.
#[derive(Deserialize)]
#[serde(untagged)]
enum Merge {
    Pair(String, String),
    Line(String),
}

fn bpe(section: BpeSection) -> Result<BPE, TokenizerError> {
    let refused = |what| Err(unsupported("model", what, "a plain BPE is"));
    if section.dropout.is_some_and(|share| share > 0.0) {
        return refused("a BPE with dropout");
    }
    if section.byte_fallback {
        return refused("a BPE with byte_fallback");
    }
    if section.ignore_merges {
        return refused("a BPE with ignore_merges");
    }
    let vocab = &section.vocab;
    let find = |entry: &str| vocab.get(entry).copied();
    let prefix = section.continuing_subword_prefix.unwrap_or_default();
    let mut merges = Vec::with_capacity(section.merges.len());
    for (i, merge) in section.merges.into_iter().enumerate() {
        let (first, second) = match merge {
            Merge::Pair(first, second) => (first, second),
            // The first line of a merges.txt, which some programs copy with the others.
            Merge::Line(line) if i == 0 && line.starts_with("#version") => continue,
            Merge::Line(line) => match line.split_once(' ') {
                Some((first, second)) => (first.to_owned(), second.to_owned()),
                None => return Err(TokenizerError::Merge(line)),
            },
        };
        // The crate trusts all of this.
        let whole = second.strip_prefix(&prefix).map(|end| format!("{first}{end}"));
        let Some(whole) = whole else {
            return Err(TokenizerError::Merge(format!("{first} {second}")));
        };
        for entry in [&first, &second, &whole] {
            known(entry, &find, "a merge needs")?;
        }
        merges.push((first, second));
    }
    // No cache: a prompt has few words, and the crate keeps what it has seen for the life of a thread.
    let mut builder = BpeBuilder::new().cache_capacity(0).fuse_unk(section.fuse_unk);
    if let Some(unknown) = section.unk_token.filter(|entry| !entry.is_empty()) {
        known(&unknown, &find, "unk_token names")?;
        builder = builder.unk_token(unknown);
    }
    if let Some(suffix) = section.end_of_word_suffix.filter(|suffix| !suffix.is_empty()) {
        builder = builder.end_of_word_suffix(suffix);
    }
    if !prefix.is_empty() {
        builder = builder.continuing_subword_prefix(prefix);
    }
    let vocab: tokenizers::models::bpe::Vocab = section.vocab.into_iter().collect();
    builder
        .vocab_and_merges(vocab, merges)
        .build()
        .map_err(|e| TokenizerError::Model(e.to_string()))
}

impl AddedToken {
    /// Only what marks a prompt's ends and the like: other added words are cut out of the text before it is split.
    pub(super) fn check(&self) -> Result<(), TokenizerError> {
        if self.special {
            return Ok(());
        }
        let found = format!("{:?} (not special)", self.content);
        Err(unsupported("added token", found, "special ones are"))
    }
}
