//! Prompts become numbers: WordPiece with BERT's normaliser and word splitting, read from the
//! `tokenizer.json` that a checkpoint carries.
//!
//! The parts of the `tokenizers` crate are called one by one instead of through its `Tokenizer`, which
//! would bring every other model and its tables into a web page (660 KB compressed instead of 90).

use serde::Deserialize;
use tokenizers::models::wordpiece::WordPiece;
use tokenizers::normalizers::BertNormalizer;
use tokenizers::pre_tokenizers::bert::BertPreTokenizer;
use tokenizers::{
    Model, NormalizedString, Normalizer, OffsetReferential, OffsetType, PreTokenizedString,
    PreTokenizer,
};

/// Fills a prompt up to its length.
pub const PAD: u32 = 0;
/// A word that the vocabulary has no pieces for.
const UNKNOWN: u32 = 1;
/// Begins every prompt.
const BEGIN: u32 = 2;
/// Ends every prompt.
const END: u32 = 3;

/// The entries that every vocabulary begins with.
const SPECIAL: [(&str, u32); 4] =
    [("[PAD]", PAD), ("[UNK]", UNKNOWN), ("[CLS]", BEGIN), ("[SEP]", END)];

/// A vocabulary and how to split text into its entries.
#[derive(Debug)]
pub struct Tokenizer {
    /// Lower case, no accents, no control characters
    cleaning: BertNormalizer,
    /// Words and punctuation apart
    splitting: BertPreTokenizer,
    pieces: WordPiece,
}

/// What is read of a `tokenizer.json`; where the ends of a prompt are marked is our own convention.
#[derive(Deserialize)]
struct Document {
    normalizer: BertNormalizer,
    pre_tokenizer: BertPreTokenizer,
    model: WordPiece,
}

/// A prompt as the text encoder reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tokens {
    /// `[CLS] … [SEP]`, then `[PAD]` up to the length that was asked for.
    pub ids: Vec<u32>,
    /// Tokens before the padding.
    pub count: usize,
    /// Whether the end of the prompt was cut off.
    pub is_cut: bool,
}

/// Why a tokenizer was refused.
#[derive(Debug, thiserror::Error)]
pub enum TokenizerError {
    /// Not the kind that we read.
    #[error("the tokenizer is no WordPiece with BERT's normaliser and pre-tokeniser ({0})")]
    Kind(#[from] serde_json::Error),
    /// An entry that is not where it has to be.
    #[error("the tokenizer has {found:?} for {entry}, which has to be entry {wanted}")]
    Special {
        /// The entry's text.
        entry: &'static str,
        /// Its number.
        wanted: u32,
        /// The number in the file.
        found: Option<u32>,
    },
    /// A number beyond the table of the text encoder.
    #[error("the tokenizer has entry {entry}, the text encoder only {vocabulary} of them")]
    Vocabulary {
        /// The largest number.
        entry: u32,
        /// Rows of the encoder's table.
        vocabulary: usize,
    },
}

impl Tokenizer {
    /// Reads a `tokenizer.json` for a text encoder that knows `vocabulary` entries.
    ///
    /// # Errors
    /// When it is of another kind, or does not fit the encoder.
    pub fn from_json(text: &str, vocabulary: usize) -> Result<Self, TokenizerError> {
        let document: Document = serde_json::from_str(text)?;
        let Document { normalizer: cleaning, pre_tokenizer: splitting, model: pieces } = document;
        for (entry, wanted) in SPECIAL {
            let found = pieces.token_to_id(entry);
            if found != Some(wanted) {
                return Err(TokenizerError::Special { entry, wanted, found });
            }
        }
        let largest = pieces.get_vocab().values().copied().max().unwrap_or(0);
        if largest as usize >= vocabulary {
            return Err(TokenizerError::Vocabulary { entry: largest, vocabulary });
        }
        Ok(Self { cleaning, splitting, pieces })
    }

    /// A prompt as exactly `length` numbers, at least two; words that do not fit are dropped from its end.
    /// Words that were never seen become known pieces, or one "unknown"; nothing is an error.
    pub fn encode(&self, prompt: &str, length: usize) -> Tokens {
        let mut pieces = self.split(prompt);
        let room = length - 2;
        let is_cut = pieces.len() > room;
        pieces.truncate(room);
        let count = pieces.len() + 2;
        let mut ids = Vec::with_capacity(length);
        ids.push(BEGIN);
        ids.extend(pieces);
        ids.push(END);
        ids.resize(length, PAD);
        Tokens { ids, count, is_cut }
    }

    fn split(&self, prompt: &str) -> Vec<u32> {
        // The crate's signatures allow failure; none of these three steps has one left, since there is an
        // entry for the unknown.
        let split = || -> tokenizers::Result<Vec<u32>> {
            let mut text = NormalizedString::from(prompt);
            self.cleaning.normalize(&mut text)?;
            let mut words = PreTokenizedString::from(text);
            self.splitting.pre_tokenize(&mut words)?;
            let mut ids = Vec::new();
            for (word, ..) in words.get_splits(OffsetReferential::Normalized, OffsetType::None) {
                ids.extend(self.pieces.tokenize(word)?.iter().map(|token| token.id));
            }
            Ok(ids)
        };
        split().unwrap_or_else(|_| vec![UNKNOWN])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(kind: &str, vocabulary: &[&str]) -> String {
        let entries: Vec<_> =
            vocabulary.iter().zip(0..).map(|(entry, id)| format!("{entry:?}:{id}")).collect();
        format!(
            r###"{{"version":"1.0","normalizer":{{"type":"BertNormalizer","clean_text":true,
            "handle_chinese_chars":true,"strip_accents":null,"lowercase":true}},
            "pre_tokenizer":{{"type":"BertPreTokenizer"}},"post_processor":null,
            "model":{{"type":"{kind}","unk_token":"[UNK]","continuing_subword_prefix":"##",
            "max_input_chars_per_word":100,"vocab":{{{}}}}}}}"###,
            entries.join(",")
        )
    }

    const WORDS: [&str; 10] =
        ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "robot", "##s", ",", "3", "##d"];

    fn tokenizer() -> Tokenizer {
        Tokenizer::from_json(&json("WordPiece", &WORDS), 10).unwrap()
    }

    #[test]
    fn splits_words_into_pieces_and_marks_the_ends() {
        let tokens = tokenizer().encode("A  Róbots,\t3D", 10);
        assert_eq!(tokens.ids, [2, 4, 5, 6, 7, 8, 9, 3, 0, 0]);
        assert_eq!((tokens.count, tokens.is_cut), (8, false));
    }

    #[test]
    fn empty_unknown_long_and_hostile_prompts_are_no_errors() {
        let t = tokenizer();
        assert_eq!(t.encode("", 4).ids, [2, 3, 0, 0]);
        assert_eq!(t.encode("☃ zebra", 5).ids, [2, 1, 1, 3, 0]);
        let long = t.encode(&"robot ".repeat(10_000), 5);
        assert_eq!((&long.ids[..], long.count, long.is_cut), (&[2, 5, 5, 5, 3][..], 5, true));
        assert!(!t.encode("a robot a", 5).is_cut, "just fits");
        assert_eq!(t.encode(&"x".repeat(5000), 4).ids, [2, 1, 3, 0], "a word of 5000 letters");
        assert_eq!(t.encode("\0\u{200d}\u{fffd}", 4).count, 2, "nothing but control characters");
        // Nobody can forge an end or padding by typing it.
        assert!(t.encode("[SEP] [PAD]", 12).ids[1..7].iter().all(|id| *id == 1));
    }

    #[test]
    fn tokenizers_that_do_not_fit_are_refused() {
        let refused = |text: &str, size| Tokenizer::from_json(text, size).unwrap_err().to_string();
        assert!(refused("{}", 10).contains("no WordPiece"));
        assert!(refused(&json("BPE", &WORDS), 10).contains("no WordPiece"));
        let error = refused(&json("WordPiece", &["[PAD]", "[UNK]", "[SEP]", "[CLS]"]), 10);
        assert!(error.contains("[CLS]") && error.contains("entry 2"), "{error}");
        assert!(refused(&json("WordPiece", &WORDS), 9).contains("entry 9"), "a row too few");
    }
}
