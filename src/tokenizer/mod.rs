//! Tokenizers of prompts: WordPiece and byte-pair encoding (BPE), read from the `tokenizer.json` in a
//! checkpoint.
//!
//! The components of the `tokenizers` crate are used directly instead of its `Tokenizer`, which would
//! bring every other model and its tables into a web page (660 KB compressed instead of 130).

mod document;
mod special;
mod words;

use tokenizers::models::bpe::BPE;
use tokenizers::models::wordpiece::WordPiece;
use tokenizers::normalizers::{BertNormalizer, ByteLevel, Lowercase, NFC};
use tokenizers::pre_tokenizers::bert::BertPreTokenizer;
use tokenizers::{
    Model, NormalizedString, Normalizer, OffsetReferential, OffsetType, PreTokenizedString,
    PreTokenizer,
};

pub use special::SpecialTokens;

use document::Document;
use special::Ends;

/// A vocabulary and how to split text into its entries.
#[derive(Debug)]
pub struct Tokenizer {
    cleaning: Vec<Cleaning>,
    splitting: Splitting,
    pieces: Pieces,
    ends: Ends,
}

/// What is done to a whole text, one after another.
#[derive(Debug)]
enum Cleaning {
    /// Lower case, no accents, no control characters, as configured in the file
    Bert(BertNormalizer),
    /// Letters and their accents as one character
    Nfc(NFC),
    Lowercase(Lowercase),
    /// Spaces of all kinds and numbers become one blank
    Spaces,
}

/// How a text becomes words.
#[derive(Debug)]
enum Splitting {
    /// Words and punctuation apart, spaces dropped
    Bert(BertPreTokenizer),
    /// GPT-2's rule, then bytes as letters; `prefix`: with a blank before the text
    Gpt2 { prefix: bool },
    /// CLIP's rule, then bytes as letters
    Clip,
}

/// How a word becomes entries.
#[derive(Debug)]
enum Pieces {
    WordPiece(WordPiece),
    Bpe(BPE),
}

/// A prompt as the text encoder reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tokens {
    /// Begin token, words, end token (`[CLS] … [SEP]`), then padding up to the requested length.
    pub ids: Vec<u32>,
    /// Tokens before the padding.
    pub count: usize,
    /// Whether the end of the prompt was cut off.
    pub is_cut: bool,
}

/// Why a tokenizer was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenizerError {
    /// No `tokenizer.json`, or a part of it is not as it has to be.
    #[error("cannot read the tokenizer ({0}); expected the content of a tokenizer.json")]
    Unreadable(#[from] serde_json::Error),
    /// A part that we do not have.
    #[error("the tokenizer's {part} is {found}, which is not supported; {supported}")]
    Unsupported {
        /// The section of the file.
        part: &'static str,
        /// The value found.
        found: String,
        /// The supported values.
        supported: &'static str,
    },
    /// An entry that something else relies on.
    #[error("the tokenizer has no entry {entry:?}, which {who}")]
    Missing {
        /// The entry's text.
        entry: String,
        /// What relies on it.
        who: &'static str,
    },
    /// Begin and end tokens are not defined.
    #[error(
        "the tokenizer does not define begin and end tokens; name them in the text section, as \
         in \"special_tokens\": {{\"begin\": \"[CLS]\", \"end\": \"[SEP]\"}}"
    )]
    Ends,
    /// A merge that is not a pair of entries, or whose second part is not a continuation.
    #[error("the tokenizer's merge {0:?} is not a pair of entries that can be joined")]
    Merge(String),
    /// What else the crate refuses.
    #[error("the tokenizer's model is not supported: {0}")]
    Model(String),
    /// A number beyond the table of the text encoder.
    #[error("the tokenizer has entry {entry}, but the text encoder only {vocabulary} entries")]
    Vocabulary {
        /// The largest number.
        entry: u32,
        /// Rows of the encoder's table.
        vocabulary: usize,
    },
}

impl Pieces {
    fn token_to_id(&self, entry: &str) -> Option<u32> {
        match self {
            Self::WordPiece(pieces) => pieces.token_to_id(entry),
            Self::Bpe(pieces) => pieces.token_to_id(entry),
        }
    }

    fn largest(&self) -> u32 {
        let vocabulary = match self {
            Self::WordPiece(pieces) => pieces.get_vocab(),
            Self::Bpe(pieces) => pieces.get_vocab(),
        };
        vocabulary.into_values().max().unwrap_or(0)
    }

    fn split(&self, word: &str) -> tokenizers::Result<Vec<tokenizers::Token>> {
        match self {
            Self::WordPiece(pieces) => pieces.tokenize(word),
            Self::Bpe(pieces) => pieces.tokenize(word),
        }
    }
}

impl Cleaning {
    fn apply(&self, text: &mut NormalizedString) -> tokenizers::Result<()> {
        match self {
            Self::Bert(part) => part.normalize(text),
            Self::Nfc(part) => part.normalize(text),
            Self::Lowercase(part) => part.normalize(text),
            Self::Spaces => {
                let mut after_space = false;
                let mut cleaned = String::with_capacity(text.get().len());
                for c in text.get().chars() {
                    let is_space = c.is_whitespace();
                    if !(is_space && after_space) {
                        cleaned.push(if is_space { ' ' } else { c });
                    }
                    after_space = is_space;
                }
                *text = NormalizedString::from(cleaned);
                Ok(())
            }
        }
    }
}

impl Splitting {
    fn words(&self, text: NormalizedString) -> tokenizers::Result<Vec<String>> {
        let by_bytes = |words: Vec<&str>| words.into_iter().map(bytes_as_letters).collect();
        match self {
            Self::Bert(part) => {
                let mut words = PreTokenizedString::from(text);
                part.pre_tokenize(&mut words)?;
                let splits = words.get_splits(OffsetReferential::Normalized, OffsetType::None);
                Ok(splits.into_iter().map(|(word, ..)| word.to_owned()).collect())
            }
            Self::Gpt2 { prefix } => {
                let text = text.get();
                let needs = *prefix && !text.is_empty() && !text.starts_with(' ');
                by_bytes(words::gpt2(&if needs { format!(" {text}") } else { text.to_owned() }))
            }
            Self::Clip => by_bytes(words::clip(text.get())),
        }
    }
}

/// A word whose every byte is a printable character, as byte-level vocabularies are written.
fn bytes_as_letters(word: &str) -> tokenizers::Result<String> {
    let mut word = NormalizedString::from(word);
    ByteLevel::new().normalize(&mut word)?;
    Ok(word.get().to_owned())
}

impl Tokenizer {
    /// Reads a `tokenizer.json` for a text encoder with `vocabulary` entries. `special` names the ends of a
    /// prompt where the file does not.
    ///
    /// # Errors
    /// When a part of it is of a kind that we do not have, or it does not fit the encoder.
    pub fn from_json(
        text: &str,
        vocabulary: usize,
        special: &SpecialTokens,
    ) -> Result<Self, TokenizerError> {
        let document: Document = serde_json::from_str(text)?;
        let cleaning = document::cleaning(&document.normalizer)?;
        let splitting = document::splitting(&document.pre_tokenizer)?;
        let pieces = document::pieces(&document.model)?;
        document.added_tokens.iter().try_for_each(document::AddedToken::check)?;
        document.padding.iter().try_for_each(document::Padding::check)?;
        let find = |entry: &str| {
            let added = document.added_tokens.iter().find(|token| token.content == entry);
            added.map(|token| token.id).or_else(|| pieces.token_to_id(entry))
        };
        let ends = Ends::find(&document, special, &find)?;
        let largest = pieces.largest().max(ends.largest());
        if largest as usize >= vocabulary {
            return Err(TokenizerError::Vocabulary { entry: largest, vocabulary });
        }
        Ok(Self { cleaning, splitting, pieces, ends })
    }

    /// A prompt as exactly `length` numbers, at least two; words that do not fit are dropped from its end.
    /// Words that were never seen become known pieces, or one "unknown"; nothing is an error. Names of special
    /// entries are text like any other.
    pub fn encode(&self, prompt: &str, length: usize) -> Tokens {
        let mut pieces = self.split(prompt);
        let room = length - 2;
        let is_cut = pieces.len() > room;
        pieces.truncate(room);
        let count = pieces.len() + 2;
        let mut ids = Vec::with_capacity(length);
        ids.push(self.ends.begin);
        ids.extend(pieces);
        ids.push(self.ends.end);
        ids.resize(length, self.ends.pad);
        Tokens { ids, count, is_cut }
    }

    fn split(&self, prompt: &str) -> Vec<u32> {
        // The crate's signatures allow failure; none of these steps has one left, since an entry for the unknown
        // was looked for when the file was read.
        let split = || -> tokenizers::Result<Vec<u32>> {
            let mut text = NormalizedString::from(prompt);
            for part in &self.cleaning {
                part.apply(&mut text)?;
            }
            let mut ids = Vec::new();
            for word in self.splitting.words(text)? {
                ids.extend(self.pieces.split(&word)?.iter().map(|token| token.id));
            }
            Ok(ids)
        };
        split().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests;
