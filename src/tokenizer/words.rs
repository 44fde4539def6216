//! Word splitting for byte-level BPE, by the two rules in use: GPT-2's and CLIP's.
//!
//! Both are regular expressions in `tokenizer.json` files. A regular-expression library with Unicode classes and
//! look-ahead would add several hundred kilobytes to a page for nothing else, so the two are implemented by hand.
//!
//! ```text
//! GPT-2  's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
//! CLIP   's|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+          what lies between is dropped
//! ```

use unicode_general_category::{GeneralCategory, get_general_category};

/// CLIP's rule as its files write it.
pub(super) const CLIP: &str = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+";

/// The prefix that transformers 5 adds: names of special tokens, which are cut out of a text before it is split anyway.
const SPECIAL: &str = r"<\|startoftext\|>|<\|endoftext\|>|";

/// Whether an expression is CLIP's rule.
pub(super) fn is_clip(expression: &str) -> bool {
    expression.strip_prefix(SPECIAL).unwrap_or(expression) == CLIP
}

/// English endings that are words of their own.
const ENDINGS: [&str; 7] = ["'s", "'t", "'re", "'ve", "'m", "'ll", "'d"];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    Space,
    Letter,
    Number,
    Other,
}

fn class(c: char) -> Class {
    use GeneralCategory as G;
    if c.is_whitespace() {
        return Class::Space;
    }
    match get_general_category(c) {
        G::UppercaseLetter
        | G::LowercaseLetter
        | G::TitlecaseLetter
        | G::ModifierLetter
        | G::OtherLetter => Class::Letter,
        G::DecimalNumber | G::LetterNumber | G::OtherNumber => Class::Number,
        _ => Class::Other,
    }
}

/// Bytes of the characters of one class that `text` begins with.
fn run(text: &str, wanted: Class) -> usize {
    text.find(|c| class(c) != wanted).unwrap_or(text.len())
}

/// The ending that `text` begins with.
fn ending(text: &str) -> Option<usize> {
    ENDINGS.iter().find(|e| text.starts_with(**e)).map(|e| e.len())
}

/// GPT-2's words: one space belongs to the word that follows it, more of them are a word without their last.
pub(super) fn gpt2(text: &str) -> Vec<&str> {
    let length = |text: &str, first: char| {
        if let Some(length) = ending(text) {
            return length;
        }
        let after = text.strip_prefix(' ').unwrap_or(text);
        let space = text.len() - after.len();
        match after.chars().next().map(class) {
            Some(Class::Space) | None => {}
            Some(class) => return space + run(after, class),
        }
        // Two or more spaces, or one that is not U+0020, or the end of the text.
        let spaces = run(text, Class::Space);
        let last = text[..spaces].chars().next_back().unwrap_or(first).len_utf8();
        if spaces == text.len() || spaces == last { spaces } else { spaces - last }
    };
    cut(text, length)
}

/// CLIP's words: every digit alone, spaces nowhere.
pub(super) fn clip(text: &str) -> Vec<&str> {
    let length = |text: &str, first: char| match (ending(text), class(first)) {
        (Some(length), _) => length,
        (None, Class::Number) => first.len_utf8(),
        (None, class) => run(text, class),
    };
    let mut words = cut(text, length);
    words.retain(|word| !word.starts_with(char::is_whitespace));
    words
}

/// Splits `text` into pieces; `length` returns the bytes of the piece that starts with its second argument.
fn cut(mut text: &str, length: impl Fn(&str, char) -> usize) -> Vec<&str> {
    let mut words = Vec::new();
    while let Some(first) = text.chars().next() {
        let (word, rest) = text.split_at(length(text, first));
        words.push(word);
        text = rest;
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tokenizers::pre_tokenizers::byte_level::ByteLevel;
    use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
    use tokenizers::{
        OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer, SplitDelimiterBehavior,
    };

    /// The result of the crate's own regular expressions for `text`.
    fn by_the_crate(text: &str, splitter: &impl PreTokenizer) -> Vec<String> {
        let mut words = PreTokenizedString::from(text);
        splitter.pre_tokenize(&mut words).unwrap();
        let splits = words.get_splits(OffsetReferential::Original, OffsetType::Byte);
        splits.into_iter().map(|(_, (from, to), _)| text[from..to].to_owned()).collect()
    }

    fn check(text: &str) {
        assert_eq!(gpt2(text), by_the_crate(text, &ByteLevel::new(false, false, true)), "{text:?}");
        let pattern = SplitPattern::Regex(CLIP.to_owned());
        let rule = Split::new(pattern, SplitDelimiterBehavior::Removed, true).unwrap();
        let words = clip(text);
        assert_eq!(words, by_the_crate(text, &rule), "{text:?}");
        // CLIP's files cut a second time by GPT-2's rule; that changes nothing.
        assert!(words.iter().all(|word| gpt2(word) == [*word]), "{text:?}");
    }

    #[test]
    fn words_are_those_of_the_regular_expressions() {
        for text in [
            "",
            " ",
            "   ",
            "\n",
            " \n",
            "a\n b",
            "a \n\n b  c",
            "it's we'll they'reX 'tis ''s 'S don't've",
            "3D 1234 ½²Ⅷ٣ x9y",
            "naïve e\u{301}clair ÀÉ ß ǅ ʰ",
            "日本語 ひらがな 한국어 العربية हिन्दी",
            "🦊🎨 ❤\u{fe0f} 👩\u{200d}🚀 !?,.;  --",
            "\u{a0}x\u{3000}y\u{85}z\u{2028}\u{200b}",
            "Ⓐ 𝒳 ゛ \u{1e030} \u{ac00}\u{11a8}",
            "a b\t c\r\n  d ",
        ] {
            check(text);
        }
    }

    proptest! {
        #[test]
        fn any_text_is_cut_alike(text in "[ '\n\ta-zA-Z0-9!é²ß日🦊\u{a0}\u{301}srtvemld]{0,40}") {
            check(&text);
        }
    }
}
