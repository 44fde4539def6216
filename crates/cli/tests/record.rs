//! `diffmoe record`, and the recordings that the page shows while its first model arrives.

mod command;

use std::path::Path;

use command::{refused, succeeds};
use diffmoe::pipeline::{Recording, Settings};
use diffmoe::scheduler::Branch;

/// Bytes that a recording may have.
const BUDGET: usize = 150_000;

#[test]
fn the_pages_recordings_are_small_and_fit_the_models_that_are_shipped() {
    for (model, seed) in [("emoji", 7), ("emoji_256", 10)] {
        check(model, seed);
    }
}

/// The recording of a model, by its name and the seed of the run.
fn check(model: &str, seed: u64) {
    let name = format!("assets/{model}.recording");
    let again = format!("diffmoe record --model {model} --seed {seed} --out {name}");
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(name);
    let bytes = std::fs::read(path).expect("the recording");
    assert!(bytes.len() <= BUDGET, "{model}: {} bytes, more than {BUDGET}", bytes.len());
    let recording = Recording::from_bytes(&bytes).expect("a recording");
    let checkpoint = diffmoe_models::open(model).expect("a model").expect("a good model");
    let (config, trace) = (checkpoint.config(), &recording.trace);
    let shape = (trace.blocks(), trace.experts(), trace.grid(), trace.steps());
    let expected =
        (config.moe_blocks(), config.num_experts, config.finest().grid(), config.defaults.steps);
    assert_eq!(shape, expected, "the model has changed: run `{again}`");
    assert_eq!(recording.size, config.input_size);
    assert!(recording.images() >= 1 && trace.has_scores() && trace.has(Branch::Unconditional));
    assert_eq!(recording.samples().len(), config.defaults.steps as usize + 1);
    // It says which file drew it, and its settings are those that the model recommends.
    let digest: [u8; 32] = {
        use sha2::Digest;
        sha2::Sha256::digest(diffmoe_models::bytes(model).expect("a model")).into()
    };
    let hash = diffmoe::pipeline::Recipe::short_hash(digest);
    assert!(recording.recipe.agrees_with(&hash), "the model has changed: run `{again}`");
    let settings = recording.recipe.builder(config).expect("its tables").build().expect("settings");
    let recommended = Settings::builder(config);
    let recommended = recommended.images(settings.images()).seed(settings.sampling.seed);
    assert_eq!(settings, recommended.build().expect("settings"));
}

#[test]
fn a_run_is_recorded_as_far_as_the_size_allows() {
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().join("a.recording").display().to_string();
    let quick = ["record", "--seed", "5", "--count", "2", "--steps", "2", "--out", &out];
    let [stdout, _] = succeeds(&quick);
    assert!(stdout.contains("2 of 2 images"), "{stdout}");
    let bytes = std::fs::read(&out).expect("a file");
    let recording = Recording::from_bytes(&bytes).expect("a recording");
    assert_eq!((recording.images(), recording.expected.len()), (2, 2));
    let less = (bytes.len() * 2 / 3).to_string();
    let [stdout, _] = succeeds(&[&quick[..], &["--most", &less]].concat());
    assert!(stdout.contains("1 of 2 images"), "{stdout}");
    refused(&[&quick[..], &["--most", "1000"]].concat(), "more than 1000 bytes");
}
