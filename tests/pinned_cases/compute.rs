//! Turns a case into calls of the library. No other file of this test names the library, so a change of its API
//! is a change here alone.

use std::path::{Path, PathBuf};

use diffmoe::checkpoint::{Checkpoint, Hints, Source, infer_config, random_tensor, write_model};
use diffmoe::kernels::WeightPrecision;
use diffmoe::model::{Config, Routing, RoutingRule, Storage, TensorSpec};
use diffmoe::pipeline::{Backend, LoadedDecoder, Pipeline, Run, Sampling, Settings};
use diffmoe::platform::Bytes;
use diffmoe::scheduler::SchedulerKind;
use diffmoe::vae::DecoderFile;

use super::{Case, Model};

/// What a case gives.
pub(crate) struct Answer {
    /// Final latents `[B, C, h, w]`, or the images that a decoder made of them, `[B, 3, H, W]`.
    pub(crate) samples: Vec<f32>,
    /// The trace as JSON.
    pub(crate) trace: String,
    /// The model's file.
    pub(crate) file: Vec<u8>,
}

/// Samples a case on the CPU.
pub(crate) fn compute(case: &Case) -> Answer {
    let checkpoint = open(case.model);
    let config = checkpoint.config();
    let images = 0..case.batch;
    let label = |table: usize, image: usize, null: u32| (3 + 7 * image + table) as u32 % (null + 1);
    let labels = config.labels.iter().enumerate();
    let labels = labels.map(|(i, table)| images.clone().map(|p| label(i, p, table.null)).collect());
    let prompts =
        case.prompts.iter().cycle().take(if config.text.is_some() { case.batch } else { 0 });
    let guided_channels = if case.all_channels { "all" } else { "3" };
    let options = [
        ("rtol", case.tolerance.to_string()),
        ("guided-channels", guided_channels.to_owned()),
        ("clip", case.clip.to_string()),
        ("eta", case.eta.to_string()),
    ];
    let scheduler: SchedulerKind = case.solver.parse().unwrap();
    let options = options.iter().filter(|(name, _)| scheduler.get(name).is_some());
    let scheduler =
        options.fold(scheduler, |kind, (name, value)| kind.with_text(name, value).unwrap());
    let settings = Settings {
        labels: labels.collect(),
        mix: Vec::new(),
        prompts: prompts.map(|&prompt| prompt.to_owned()).collect(),
        sampling: Sampling {
            negative: case.negative.to_owned(),
            seed: 7,
            steps: case.steps,
            guidance: case.guidance,
            scheduler,
            routing: Routing {
                rule: if case.pool { RoutingRule::Pool } else { RoutingRule::Token },
                gamma: case.gamma,
                shift: case.shift,
                log_odds: 0.0,
            },
            ..Sampling::default()
        },
        init: None,
        record_scores: false,
    };
    settings.check(config).unwrap();
    let engine = Pipeline::open(&checkpoint, Backend::Cpu, WeightPrecision::F32).unwrap();
    let engine = engine.engine(case.batch).unwrap();
    let done = Run::start(engine, config, settings, case.first).unwrap().finish(|_| {}).unwrap();
    let mut samples = done.samples;
    if let Some(folder) = case.decoder {
        let file = DecoderFile::open(&path(folder).join("model.safetensors")).unwrap();
        let decoder = LoadedDecoder::open(&file, Backend::Cpu, WeightPrecision::F32).unwrap();
        samples = decoder.decoder(config.input_size).unwrap().decode_now(&samples).unwrap();
    }
    let file = checkpoint.files().collect::<Vec<_>>().concat();
    Answer { samples, trace: done.trace.to_json().unwrap(), file }
}

fn open(model: Model) -> Checkpoint {
    let (text, storage, read): (_, _, Box<Read>) = match model {
        Model::Fixture(file) | Model::Shipped(file) => {
            return Checkpoint::open(&path(file)).unwrap();
        }
        Model::Random(text, storage) => {
            let config = Config::from_json(text).unwrap();
            (text.to_owned(), storage, Box::new(move |spec| random_tensor(&config, spec, 1)))
        }
        Model::Converted(file, storage) => {
            let file = path(file);
            let source = Source::open(&file, "ema").unwrap();
            // The configuration lies beside the fixture, as `case.json` or as the YAML of a training run.
            let text = std::fs::read_to_string(file.with_file_name("case.json"));
            let yaml = || std::fs::read_to_string(file.with_file_name("../config.yaml")).ok();
            let hints = || Hints { yaml: yaml(), ..Hints::default() };
            let infer = || infer_config(&source.shapes().unwrap(), &hints()).unwrap().config_text;
            let text = text.unwrap_or_else(|_| infer());
            (text, storage, Box::new(move |spec| source.read(&spec.name).unwrap()))
        }
    };
    let storage = match storage {
        "f32" => Storage::F32,
        "f16" => Storage::F16,
        "int8" => Storage::Int8,
        "int4" => Storage::Int4,
        other => panic!("no dtype is called {other}"),
    };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    let tensors = Config::from_json(&text).unwrap().tensors();
    write_model(&path, &text, &tensors, storage, None, &|spec| Ok(read(spec))).unwrap();
    Checkpoint::from_bytes("model", Bytes::new(std::fs::read(&path).unwrap())).unwrap()
}

type Read = dyn Fn(&TensorSpec) -> Vec<f32>;

fn path(relative: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(relative)
}
