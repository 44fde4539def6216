//! The readers, one function each: from bytes to an answer, whose wording tells what happened.

use std::cell::OnceCell;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::LazyLock;

use diffmoe::checkpoint::{
    Checkpoint, Hints, TensorFile, TensorOut, TorchFile, infer_config, is_run_config,
    write_safetensors,
};
use diffmoe::model::{Config, Objective};
use diffmoe::pipeline::{Parameters, Recipe, Recording, Saved};
use diffmoe::platform::Bytes;
use diffmoe::tokenizer::{SpecialTokens, Tokenizer};
use diffmoe::trace::Trace;
use diffmoe::trace::atlas::Atlas;
use diffmoe::vae::DecoderFile;
use diffmoe_viewer::session::Share;

/// A reader of foreign bytes.
#[derive(Debug)]
pub struct Target {
    /// Also the folder of its corpus.
    pub name: &'static str,
    /// Reads an input.
    pub run: fn(&[u8]) -> String,
}

/// All of them.
pub const TARGETS: [Target; 15] = [
    Target { name: "safetensors", run: safetensors },
    Target { name: "header", run: header },
    Target { name: "index", run: index },
    Target { name: "torch", run: torch },
    Target { name: "pickle", run: pickle },
    Target { name: "legacy", run: torch },
    Target { name: "yaml", run: yaml },
    Target { name: "config", run: config },
    Target { name: "tokenizer", run: tokenizer },
    Target { name: "trace", run: trace },
    Target { name: "recording", run: recording },
    Target { name: "atlas", run: atlas },
    Target { name: "link", run: link },
    Target { name: "png", run: png },
    Target { name: "prompt", run: prompt },
];

fn answer<T, E: std::fmt::Display>(result: Result<T, E>, of: impl FnOnce(T) -> String) -> String {
    result.map_or_else(|error| error.to_string(), of)
}

/// Names in one form, whatever they are.
fn owned(bytes: &[u8]) -> Bytes {
    Bytes::new(bytes.to_vec())
}

/// A file of tensors, as a model, as a decoder, and as it is.
fn safetensors(input: &[u8]) -> String {
    answer(TensorFile::from_bytes("input", owned(input)), tensors)
}

fn tensors(file: TensorFile) -> String {
    let names: Vec<_> = file.list().into_iter().map(|tensor| tensor.name).take(3).collect();
    let mut text = String::new();
    for name in &names {
        let _ = write!(text, "{} ", answer(file.read(name), |_| "read".into()));
    }
    if DecoderFile::kind_of(&file).is_some() {
        return text + &answer(DecoderFile::from_tensors(file), |_| "a decoder".into());
    }
    text + &answer(Checkpoint::from_file(file), |_| "a model".into())
}

/// The header of such a file alone, with as many zeros behind it as a small model has numbers.
fn header(input: &[u8]) -> String {
    let mut file = (input.len() as u64).to_le_bytes().to_vec();
    file.extend(input);
    file.resize(file.len() + 4096, 0);
    safetensors(&file)
}

/// The index of a model in two parts, which lie beside it.
fn index(input: &[u8]) -> String {
    thread_local! {
        static FOLDER: OnceCell<(tempfile::TempDir, PathBuf)> = const { OnceCell::new() };
    }
    let make = || {
        // In memory where the system has such a folder.
        let folder = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir());
        let folder = folder.expect("a folder");
        for (part, name) in [("a", "one"), ("b", "two")] {
            let path = folder.path().join(format!("{part}.safetensors"));
            write_safetensors(&path, &[TensorOut::f32(name, &[2], &[1.0, 2.0])], [])
                .expect("a part");
        }
        let path = folder.path().join("model.safetensors.index.json");
        (folder, path)
    };
    FOLDER.with(|folder| {
        let (_, path) = folder.get_or_init(make);
        std::fs::write(path, input).expect("the index");
        answer(TensorFile::open(path), tensors)
    })
}

/// A PyTorch file of any age.
fn torch(input: &[u8]) -> String {
    answer(TorchFile::from_bytes("input", owned(input), "auto"), |file| {
        let shapes = match file.shapes() {
            Ok(shapes) => shapes,
            Err(error) => return error.to_string(),
        };
        let mut text = String::new();
        for name in shapes.keys().take(3) {
            let _ = write!(text, "{} ", answer(file.read(name), |_| "read".into()));
        }
        text + &answer(infer_config(&shapes, &Hints::default()), |found| found.assumed.join(" "))
    })
}

/// The pickle in an archive, with four storages beside it.
fn pickle(input: &[u8]) -> String {
    let storage = &[0; 256][..];
    torch(&archive(&[
        ("archive/data.pkl", input),
        ("archive/data/0", storage),
        ("archive/data/1", storage),
        ("archive/data/2", storage),
        ("archive/data/3", storage),
        ("archive/version", b"3\n"),
    ]))
}

/// A zip archive of files that are not compressed, without checksums. A library for such files takes longer than the
/// reader.
fn archive(files: &[(&str, &[u8])]) -> Vec<u8> {
    let (mut bytes, mut list) = (Vec::new(), Vec::new());
    for (name, data) in files {
        let at = (bytes.len() as u32).to_le_bytes();
        let (size, name_size) =
            ((data.len() as u32).to_le_bytes(), (name.len() as u16).to_le_bytes());
        // Version, flags, method, time, date and checksum are zeros.
        let common = [&[0; 14], &size[..], &size, &name_size, &[0, 0]].concat();
        bytes.extend([b"PK\x03\x04", &common[..], name.as_bytes(), data].concat());
        list.extend([b"PK\x01\x02\0\0", &common[..], &[0; 10], &at, name.as_bytes()].concat());
    }
    let count = (files.len() as u16).to_le_bytes();
    let (size, at) = ((list.len() as u32).to_le_bytes(), (bytes.len() as u32).to_le_bytes());
    let end = [b"PK\x05\x06\0\0\0\0", &count[..], &count, &size, &at, &[0, 0]].concat();
    [bytes, list, end].concat()
}

fn yaml(input: &[u8]) -> String {
    let text = String::from_utf8_lossy(input);
    match is_run_config(&text) {
        // The same parser would say the same again.
        Err(error) => error.to_string(),
        Ok(is_run) => {
            let hints = Hints {
                yaml: Some(text.into_owned()),
                time: Some(Objective::Flow),
                heads: Some(2),
                ..Hints::default()
            };
            let shapes = [("y_embedder.embedding_table.weight".to_owned(), vec![5, 8])].into();
            format!("{is_run} {}", answer(infer_config(&shapes, &hints), |_| "inferred".into()))
        }
    }
}

fn config(input: &[u8]) -> String {
    answer(Config::from_json(&String::from_utf8_lossy(input)), |config| {
        let defaults = diffmoe::pipeline::Settings::of(&config);
        format!("{} {}", config.name, answer(defaults.check(&config), |()| "checked".into()))
    })
}

/// A tokenizer, with names for the ends of a prompt or, where the input has an even number of bytes, without.
fn tokenizer(input: &[u8]) -> String {
    let special = if input.len().is_multiple_of(2) {
        SpecialTokens::default()
    } else {
        let [begin, end, pad] = ["[BEGIN]", "[END]", "[PAD]"].map(|name| Some(name.to_owned()));
        SpecialTokens { begin, end, pad }
    };
    let text = String::from_utf8_lossy(input);
    answer(Tokenizer::from_json(&text, 1 << 16, &special), |tokenizer| {
        // A reader that works is used.
        let tokens = tokenizer.encode("a robot, fluent 3d \u{1f916} ÉCOLE", 16);
        format!("{} tokens", tokens.count)
    })
}

fn trace(input: &[u8]) -> String {
    answer(Trace::from_bytes(input), |trace| {
        let blocks = trace.blocks().len();
        let mut text = format!("blocks {blocks}");
        for step in 0..trace.steps().min(4) {
            for layer in 0..blocks.min(4) {
                let load = trace.load(step, layer);
                let _ = write!(text, " {}", load.map_or("none", |_| "load"));
            }
        }
        let _ = (trace.capacity_by_image(), trace.capacity_by_step(), trace.images());
        if trace.has_scores() {
            text += " scores";
        }
        let again = answer(trace.to_json(), |json| {
            answer(Trace::from_json(json.as_bytes()), |_| "again".into())
        });
        text + " " + &again
    })
}

fn recording(input: &[u8]) -> String {
    answer(Recording::from_bytes(input), |recording| {
        format!(
            "images {}",
            answer(Recording::from_bytes(&recording.to_bytes()), |_| "again".into())
        )
    })
}

fn atlas(input: &[u8]) -> String {
    answer(Atlas::from_json(input), |atlas| {
        let rows = atlas.to_csv().lines().count().min(9);
        for table in &atlas.tables {
            let _ = (atlas.by_capacity(table), atlas.capacity(table, 0, Some(0)));
        }
        format!("{} tables, {rows}", atlas.tables.len())
    })
}

/// The model that recipes are applied to.
const MODEL: &str = r#"{"kind":"diffmoe","t_kind":"flow","space":"pixels","params":{"input_size":8,
    "in_channels":3,"num_classes":4,"patch_size":2,"depth":2,"hidden_size":32,"num_heads":2,
    "MoE_config":{"num_experts":4,"capacity":1}}}"#;

fn model() -> &'static Config {
    static CONFIG: LazyLock<Config> =
        LazyLock::new(|| Config::from_json(MODEL).expect("a configuration"));
    &CONFIG
}

fn use_recipe(recipe: &Recipe) -> String {
    let used = answer(recipe.builder(model()), |builder| {
        answer(builder.build(), |settings| format!("settings {}", settings.sampling.scheduler))
    });
    let text = recipe.to_text();
    // What is written is read again, as it was.
    match Recipe::parse(&text) {
        Ok(again) => assert_eq!(again.to_text(), text, "a recipe changes when it is written"),
        Err(error) => panic!("{text:?} was written, but: {error}"),
    }
    used
}

/// The fragment of a link: in the app, and as a recipe.
fn link(input: &[u8]) -> String {
    let text = String::from_utf8_lossy(input);
    let app = answer(Share::parse(&text), |share| {
        answer(Share::parse(&share.to_fragment()), |_| "again".into())
    });
    format!("{app} {}", answer(Recipe::parse(&text), |recipe| use_recipe(&recipe)))
}

/// A PNG, or the text in one.
fn png(input: &[u8]) -> String {
    if input.starts_with(b"\x89PNG") {
        return answer(Saved::from_png(input), saved);
    }
    let (keyword, text) = match input.split_first() {
        Some((first, rest)) if first % 2 == 0 => ("parameters", rest),
        _ => ("diffmoe", input),
    };
    let mut file = Vec::new();
    let mut encoder = png::Encoder::new(&mut file, 1, 1);
    encoder.set_color(png::ColorType::Grayscale);
    encoder.set_compression(png::Compression::NoCompression);
    let text = String::from_utf8_lossy(text).into_owned();
    encoder.add_itxt_chunk(keyword.into(), text).expect("a text");
    let mut writer = encoder.write_header().expect("a header");
    writer.write_image_data(&[0]).expect("a pixel");
    writer.finish().expect("an end");
    answer(Saved::from_png(&file), saved)
}

fn saved(saved: Saved) -> String {
    match saved {
        Saved::Recipe(recipe) => use_recipe(&recipe),
        Saved::Parameters(parameters) => {
            let (recipe, unknown) = parameters.recipe(model());
            let _ = Parameters::of(&recipe, &[], [8, 8]);
            format!("{} {}", use_recipe(&recipe), unknown.len())
        }
    }
}

/// A prompt for one of the tokenizers, which the first byte chooses.
fn prompt(input: &[u8]) -> String {
    thread_local! {
        static TOKENIZERS: OnceCell<Vec<Tokenizer>> = const { OnceCell::new() };
    }
    let (&first, rest) = input.split_first().unwrap_or((&0, &[]));
    let text = String::from_utf8_lossy(rest);
    TOKENIZERS.with(|tokenizers| {
        let all = tokenizers.get_or_init(|| {
            crate::seeds(&TARGETS[8])
                .expect("the corpus of tokenizers")
                .iter()
                .filter_map(|seed| {
                    let text = String::from_utf8_lossy(seed);
                    Tokenizer::from_json(&text, 1 << 16, &SpecialTokens::default()).ok()
                })
                .collect()
        });
        let which = usize::from(first) % all.len();
        let tokens = all[which].encode(&text, 16);
        assert_eq!(tokens.ids.len(), 16, "tokens of a prompt");
        let letter = |n: usize| char::from(b'a' + n as u8);
        format!("tokens {} {}", letter(which), letter(tokens.count))
    })
}
