//! The shape of the text encoder of a text-conditioned model (see `docs/models-text.md`).

use serde::Deserialize;

use super::error::ConfigError;
use super::width::ffn_width;
use crate::tokenizer::{SpecialTokens, Tokenizer};

/// A text encoder. Made only as a part of [`super::Config`], which has checked every number.
#[derive(Clone, Debug, PartialEq)]
pub struct TextConfig {
    /// `V`, rows of the token table.
    pub vocab_size: usize,
    /// `L`, tokens of a prompt with the two that mark its ends.
    pub max_length: usize,
    /// `D_t`.
    pub hidden_size: usize,
    /// Number of layers.
    pub depth: usize,
    /// Attention heads of a layer.
    pub num_heads: usize,
    /// Hidden width of a layer's feed-forward network.
    pub ffn_hidden: usize,
    /// The `tokenizer.json`, checked.
    tokenizer: String,
    /// Names of the begin, end and padding tokens, if the file gives them separately from the tokenizer.
    special_tokens: SpecialTokens,
    /// Prompts to draw where a user gives none.
    pub examples: Vec<String>,
}

/// The `text` section of a configuration.
#[derive(Deserialize)]
pub(super) struct TextSection {
    vocab_size: usize,
    max_length: usize,
    hidden_size: usize,
    depth: usize,
    num_heads: usize,
    #[serde(default = "four")]
    mlp_ratio: f64,
    tokenizer: serde_json::Value,
    #[serde(default)]
    special_tokens: SpecialTokens,
    #[serde(default)]
    examples: Vec<String>,
}

fn four() -> f64 {
    4.0
}

impl TextConfig {
    /// Checks that such an encoder can exist.
    pub(super) fn new(section: TextSection) -> Result<Self, ConfigError> {
        let TextSection { vocab_size, max_length, hidden_size, depth, num_heads, .. } = section;
        let ffn_hidden = ffn_width(hidden_size, section.mlp_ratio);
        let sizes = [vocab_size, max_length, hidden_size, depth, num_heads, ffn_hidden];
        let wrong = |text: &str| Err(ConfigError::Invalid(format!("text section: {text}")));
        if sizes.iter().any(|&n| n == 0 || n > 1 << 20) {
            return wrong("a size is 0 or above 1,048,576");
        }
        if !(3..=4096).contains(&max_length) {
            return wrong("max_length must be from 3 to 4096");
        }
        // The kernels read four numbers at a time.
        if !hidden_size.is_multiple_of(num_heads * 4) || !ffn_hidden.is_multiple_of(4) {
            return wrong("the head width and the feed-forward width must be multiples of 4");
        }
        let tokenizer = section.tokenizer.to_string();
        let special_tokens = section.special_tokens;
        if let Err(error) = Tokenizer::from_json(&tokenizer, vocab_size, &special_tokens) {
            return wrong(&error.to_string());
        }
        Ok(Self {
            vocab_size,
            max_length,
            hidden_size,
            depth,
            num_heads,
            ffn_hidden,
            tokenizer,
            special_tokens,
            examples: section.examples,
        })
    }

    /// Width of one attention head.
    pub fn head_dim(&self) -> usize {
        self.hidden_size / self.num_heads
    }

    /// What splits prompts for this encoder.
    ///
    /// # Panics
    /// Never: the text was read once already.
    pub fn tokenizer(&self) -> Tokenizer {
        Tokenizer::from_json(&self.tokenizer, self.vocab_size, &self.special_tokens)
            .expect("checked when it was read")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<TextConfig, ConfigError> {
        TextConfig::new(serde_json::from_str(text)?)
    }

    const GOOD: &str = r#"{"vocab_size":85,"max_length":11,"hidden_size":12,"depth":2,"num_heads":3,
        "tokenizer":{"normalizer":{"type":"BertNormalizer","clean_text":true,"lowercase":true,
        "handle_chinese_chars":true,"strip_accents":null},"pre_tokenizer":{"type":"BertPreTokenizer"},
        "model":{"type":"WordPiece","unk_token":"[UNK]","continuing_subword_prefix":"",
        "max_input_chars_per_word":100,"vocab":{"[PAD]":0,"[UNK]":1,"[CLS]":2,"[SEP]":3,"fox":4}}}}"#;

    #[test]
    fn impossible_encoders_are_refused() {
        let good = read(GOOD).unwrap();
        assert_eq!((good.ffn_hidden, good.head_dim()), (48, 4));
        assert_eq!(good.tokenizer().encode("a fox", 5).ids, [2, 1, 4, 3, 0]);
        for (from, to, why) in [
            ("\"depth\":2", "\"depth\":0", "a size is 0"),
            ("\"max_length\":11", "\"max_length\":2", "max_length"),
            ("\"num_heads\":3", "\"num_heads\":2", "multiples of 4"),
            ("\"vocab_size\":85", "\"vocab_size\":99999999", "above 1,048,576"),
            ("\"vocab_size\":85", "\"vocab_size\":4", "entry 4"),
            ("\"depth\":2", "\"deep\":2", "depth"),
            ("WordPiece", "Unigram", "model is Unigram, which is not supported"),
            ("\"[SEP]\":3", "\"[END]\":3", "does not define begin and end tokens"),
        ] {
            let error = read(&GOOD.replace(from, to)).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
        let named = GOOD
            .replace("\"[SEP]\":3", "\"[END]\":3")
            .replace("\"depth\"", "\"special_tokens\":{\"end\":\"[END]\"},\"depth\"");
        assert_eq!(read(&named).unwrap().tokenizer().encode("fox", 4).ids, [2, 4, 3, 0]);
    }
}
