use super::*;
use serde::Deserialize;
use serde_json::{Value, json};

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

fn read(text: &str, vocabulary: usize) -> Result<Tokenizer, TokenizerError> {
    Tokenizer::from_json(text, vocabulary, &SpecialTokens::default())
}

fn tokenizer() -> Tokenizer {
    read(&json("WordPiece", &WORDS), 10).unwrap()
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
    let refused = |text: &str, size| read(text, size).unwrap_err().to_string();
    assert!(refused("{}", 10).contains("cannot read the tokenizer"));
    assert!(refused(&json("Unigram", &WORDS), 10).contains("Unigram, which is not supported"));
    let error = refused(&json("WordPiece", &["[PAD]", "[UNK]", "[SEP]"]), 10);
    assert!(error.contains("does not define begin and end tokens"), "{error}");
    let error = refused(&json("WordPiece", &["[PAD]", "[CLS]", "[SEP]"]), 10);
    assert!(error.contains("no entry \"[UNK]\", which unk_token names"), "{error}");
    assert!(refused(&json("WordPiece", &WORDS), 9).contains("entry 9"), "a row too few");
}

/// A recorded tokenizer as a value that can be changed.
fn recorded(name: &str) -> (Value, SpecialTokens) {
    let case = cases().into_iter().find(|case| case["name"] == name).unwrap();
    (case["tokenizer"].clone(), SpecialTokens::deserialize(&case["special_tokens"]).unwrap())
}

fn cases() -> Vec<Value> {
    let text = include_str!("../../tests/fixtures/tokenizers.json");
    serde_json::from_str::<Value>(text).unwrap().as_array().unwrap().clone()
}

/// Numbers that the `tokenizers` package for Python gave for the same files and prompts.
#[test]
fn recorded_prompts_give_the_same_numbers() {
    let mut compared = 0;
    for case in cases() {
        let special = SpecialTokens::deserialize(&case["special_tokens"]).unwrap();
        let size = case["vocabulary"].as_u64().unwrap() as usize;
        let tokenizer =
            Tokenizer::from_json(&case["tokenizer"].to_string(), size, &special).unwrap();
        for prompt in case["prompts"].as_array().unwrap() {
            let text = prompt["text"].as_str().unwrap();
            let ids: Vec<u32> = Deserialize::deserialize(&prompt["ids"]).unwrap();
            let tokens = tokenizer.encode(text, ids.len());
            let length = prompt["length"].as_u64().unwrap() as usize;
            assert_eq!(tokens.ids, ids, "{} {text:?}", case["name"]);
            assert_eq!(tokens.count, length.min(ids.len()), "{} {text:?}", case["name"]);
            assert_eq!(tokens.is_cut, length > ids.len(), "{} {text:?}", case["name"]);
            compared += 1;
        }
    }
    assert_eq!(compared, 100);
}

#[test]
fn parts_that_we_do_not_have_are_refused_by_name() {
    let refused = |name: &str, place: &str, part: Value, why: &str| {
        let (mut file, special) = recorded(name);
        *file.pointer_mut(place).unwrap() = part;
        let error = Tokenizer::from_json(&file.to_string(), 9999, &special).unwrap_err();
        let error = error.to_string();
        assert!(error.contains(why), "{place}: {error}");
    };
    let part = |kind: &str| json!({"type": kind});
    refused("gpt2", "/normalizer", part("NFKC"), "normalizer is NFKC");
    refused("clip", "/normalizer/normalizers/1/content", json!("_"), r"a Replace of");
    refused("gpt2", "/pre_tokenizer", part("Whitespace"), "pre_tokenizer is Whitespace");
    refused("gpt2", "/pre_tokenizer", Value::Null, "pre_tokenizer is none");
    refused("gpt2", "/pre_tokenizer/use_regex", json!(false), "does not split");
    refused("clip", "/pre_tokenizer/pretokenizers/0/pattern/Regex", json!("\\w+"), "a Split by");
    refused("clip", "/pre_tokenizer/pretokenizers/0/behavior", json!("Isolated"), "a Split by");
    let space = "/pre_tokenizer/pretokenizers/1/add_prefix_space";
    refused("clip", space, json!(true), "a space before every word");
    refused("clip", "/post_processor", part("Other"), "post_processor is Other");
    refused("clip", "/post_processor/sep", json!("</s>"), "without two numbers");
    refused("bert", "/post_processor/single/0", Value::Null, "without two numbers");
    refused("bert", "/post_processor/single", json!([]), "another TemplateProcessing");
    refused("gpt2", "/model/dropout", json!(0.1), "dropout");
    refused("gpt2", "/model/byte_fallback", json!(true), "byte_fallback");
    refused("gpt2", "/model/ignore_merges", json!(true), "ignore_merges");
    refused("gpt2", "/model/unk_token", json!("<x>"), "no entry \"<x>\"");
    refused("gpt2", "/model/merges/3", json!(["a", "never there"]), "a merge needs");
    refused("gpt2", "/model/merges/3", json!("x"), "merge \"x\"");
    refused("gpt2", "/model/continuing_subword_prefix", json!("##"), "that can be joined");
    refused(
        "bert",
        "/padding",
        json!({"pad_id": 0, "direction": "Left"}),
        "padding is on the side \"Left\"",
    );
    refused("gpt2", "/added_tokens/0/special", json!(false), "not special");
    let (file, special) = recorded("gpt2");
    let error = read(&file.to_string(), 9999).unwrap_err().to_string();
    assert!(
        error.contains("does not define begin and end tokens"),
        "GPT-2's files do not say: {error}"
    );
    let other = SpecialTokens { end: Some("<x>".into()), ..special };
    let error = Tokenizer::from_json(&file.to_string(), 9999, &other).unwrap_err().to_string();
    assert!(error.contains("\"<x>\", which special_tokens names"), "{error}");
}

/// Version 5 of transformers writes CLIP's expression with the special entries before it, and GPT-2 with a template that
/// adds nothing.
#[test]
fn files_of_transformers_5_are_read_too() {
    let encode = |file: &Value, special: &SpecialTokens| {
        let tokenizer = Tokenizer::from_json(&file.to_string(), 9999, special).unwrap();
        tokenizer.encode("a robot's picture, 3 of them ☃", 40)
    };
    let (file, special) = recorded("clip");
    let mut newer = file.clone();
    let place = "/pre_tokenizer/pretokenizers/0/pattern/Regex";
    let expression = format!(r"<\|startoftext\|>|<\|endoftext\|>|{}", words::CLIP);
    *newer.pointer_mut(place).unwrap() = expression.into();
    assert_eq!(encode(&newer, &special), encode(&file, &special));

    let (file, special) = recorded("gpt2");
    let mut newer = file.clone();
    newer["post_processor"] = json!({
        "type": "TemplateProcessing", "special_tokens": {},
        "single": [{"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}]
    });
    assert_eq!(encode(&newer, &special), encode(&file, &special));
}

/// The first line of a merges.txt is none of its merges.
#[test]
fn a_merge_list_may_begin_with_its_version() {
    let (file, special) = recorded("gpt2");
    let mut copied = file.clone();
    copied["model"]["merges"].as_array_mut().unwrap().insert(0, json!("#version: 0.2"));
    let encode = |file: &Value| {
        let tokenizer = Tokenizer::from_json(&file.to_string(), 9999, &special).unwrap();
        tokenizer.encode("a robot's picture, 3 of them ☃", 40)
    };
    assert_eq!(encode(&copied), encode(&file));
}

#[test]
fn older_files_are_read_too() {
    let (file, special) = recorded("gpt2");
    let mut older = file.clone();
    let model = older["model"].as_object_mut().unwrap();
    model.remove("type");
    model.remove("ignore_merges");
    for empty in ["unk_token", "continuing_subword_prefix", "end_of_word_suffix"] {
        model.insert(empty.to_owned(), json!(""));
    }
    let merges = model["merges"].as_array_mut().unwrap();
    for merge in merges {
        *merge = json!(format!("{} {}", merge[0].as_str().unwrap(), merge[1].as_str().unwrap()));
    }
    let encode = |file: &Value| {
        let tokenizer = Tokenizer::from_json(&file.to_string(), 9999, &special).unwrap();
        tokenizer.encode("a robot's picture, 3 of them ☃", 40)
    };
    assert_eq!(encode(&older), encode(&file));
}
