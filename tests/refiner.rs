//! A model with a refiner on both engines: the run is that of the base alone up to the refiner's first step, resumed there
//! with the refiner alone, bit for bit.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail like tests")]

mod device;

use device::{device, turn};
use diffmoe::checkpoint::{Checkpoint, model_bytes};
use diffmoe::gpu::Profile;
use diffmoe::model::{Config, RoutingRule, Storage};
use diffmoe::pipeline::{Pipeline, Run, RunState, Settings};
use diffmoe::platform::Bytes;
use diffmoe::scheduler::{Branch, SchedulerKind};
use diffmoe::trace::{At, Trace};

const IMAGES: usize = 2;
const STEPS: u32 = 6;
/// Steps before the time of the refiner, 0.5.
const BASE_STEPS: u32 = 3;

/// A rectangle in 4×2 patches, refined in 8×4.
fn document(with_refiner: bool) -> String {
    let params = |patch: usize, depth: usize, capacity: usize, more: &str| {
        format!(
            r#"{{"input_size":[16,8],"in_channels":3,"num_classes":5,"patch_size":{patch},"depth":{depth},"hidden_size":32,
            "num_heads":2,"learn_sigma":false,"prediction":"data",{more}
            "MoE_config":{{"num_experts":4,"capacity":{capacity},"interleave":true}}}}"#
        )
    };
    let refiner = params(2, 3, 2, r#""detail_head":{"channels":4,"phase":true},"#);
    let refiner = format!(r#","refiner":{{"from":0.5,"params":{refiner}}}"#);
    format!(
        r#"{{"name":"tiny","kind":"diffmoe","t_kind":"flow","space":"pixels","params":{}{}}}"#,
        params(4, 2, 1, ""),
        if with_refiner { &refiner } else { "" }
    )
}

fn model(with_refiner: bool) -> Checkpoint {
    Checkpoint::random(&document(with_refiner), 4).unwrap()
}

fn settings(config: &Config, scheduler: &str, rule: RoutingRule) -> Settings {
    let settings = Settings::builder(config).images(IMAGES).seed(3).steps(STEPS).guidance(1.5);
    let settings = settings.scheduler(scheduler.parse().unwrap()).rule(rule);
    let scheduler: SchedulerKind = scheduler.parse().unwrap();
    let spin = if scheduler.spins(config.objective) { "2,0.6" } else { "1" };
    settings.cycle_spin(spin.parse().unwrap()).record_scores(true).build().unwrap()
}

/// The two models one after the other, with the routing of each.
fn by_hand(base: &Pipeline, refiner: &Pipeline, settings: &Settings) -> (Vec<f32>, [Trace; 2]) {
    let engine = base.engine(IMAGES).unwrap();
    let mut run = Run::start(engine, base.config(), settings.clone(), 0).unwrap();
    run.set_limit(BASE_STEPS);
    while run.finished_steps() < BASE_STEPS {
        run.advance(usize::MAX).unwrap();
        run.engine().wait().unwrap();
    }
    let state = run.state();
    let of_base = state.trace.clone();
    let state = RunState { trace: Trace::new(refiner.config(), Vec::new()), ..state };
    let engine = refiner.engine(IMAGES).unwrap();
    let run = Run::resume(engine, refiner.config(), settings.clone(), state).unwrap();
    let finished = run.finish(|_| {}).unwrap();
    (finished.samples, [of_base, finished.trace])
}

/// Checks every scheduler that takes steps of its own.
fn check(open: impl Fn(&Checkpoint) -> Pipeline) {
    let checkpoint = model(true);
    let whole = open(&checkpoint);
    let (base, refiner) = (open(&model(false)), open(&checkpoint.refiner().unwrap().unwrap()));
    assert_eq!(whole.memory_bytes(), base.memory_bytes() + refiner.memory_bytes());
    let schedulers = SchedulerKind::for_objective(whole.config().objective);
    for scheduler in schedulers.iter().filter(|scheduler| !scheduler.is_adaptive()) {
        for &rule in RoutingRule::ALL {
            let settings = settings(whole.config(), scheduler.name(), rule);
            let run = whole.start(settings.clone()).unwrap().finish(|_| {}).unwrap();
            let (samples, [of_base, of_refiner]) = by_hand(&base, &refiner, &settings);
            assert!(run.samples == samples, "{scheduler}, {rule}");
            compare(&run.trace, &of_base, &of_refiner);
        }
    }
}

/// Compares the routing of a run with that of its two halves.
fn compare(got: &Trace, of_base: &Trace, of_refiner: &Trace) {
    assert_eq!((got.grid(), of_base.grid(), of_refiner.grid()), ([8, 4], [4, 2], [8, 4]));
    let (coarse, fine) = got.forwards().split_at(of_base.forwards().len());
    assert_eq!(fine, of_refiner.forwards());
    for (pass, of_base) in coarse.iter().zip(of_base.forwards()) {
        assert_eq!((pass.step, pass.time, pass.scale), (of_base.step, of_base.time, 2));
        for (layer, of_base) in pass.layers.iter().zip(&of_base.layers) {
            let (scores, of_base_scores) =
                (layer.scores.as_ref().unwrap(), of_base.scores.as_ref().unwrap());
            for (at, mask) in layer.masks.iter().enumerate() {
                let (image, row, column) = (at / 32, at % 32 / 4, at % 4);
                let token = image * 8 + row / 2 * 2 + column / 2;
                assert_eq!(*mask, of_base.masks[token]);
                let of = |values: &[half::f16], at: usize| values[4 * at..4 * at + 4].to_vec();
                assert_eq!(of(&scores.need, at), of(&of_base_scores.need, token));
                assert_eq!(of(&scores.gate, at), of(&of_base_scores.gate, token));
            }
        }
    }
}

#[test]
fn the_processor_hands_over_to_the_refiner() {
    check(|checkpoint| Pipeline::cpu(checkpoint).unwrap());
}

#[test]
fn gpus_hand_over_to_the_refiner() {
    let _turn = turn();
    for profile in [Profile::Software, Profile::Gpu] {
        let gpu = device(profile);
        check(|checkpoint| Pipeline::load(&gpu, checkpoint).unwrap());
    }
}

#[test]
fn runs_resume_on_either_side() {
    let pipeline = Pipeline::cpu(&model(true)).unwrap();
    let config = pipeline.config();
    let settings = settings(config, "unipc", RoutingRule::Token);
    let want = pipeline.start(settings.clone()).unwrap().finish(|_| {}).unwrap();
    for stop in [1, BASE_STEPS, STEPS - 1] {
        let mut run = pipeline.start(settings.clone()).unwrap();
        while run.finished_steps() < stop {
            run.advance(1).unwrap();
        }
        let engine = pipeline.engine(IMAGES).unwrap();
        let run = Run::resume(engine, config, settings.clone(), run.state()).unwrap();
        let got = run.finish(|_| {}).unwrap();
        assert!(got.samples == want.samples && got.trace == want.trace, "after {stop} steps");
    }
    // An engine may start again in the middle of a run.
    let mut run = pipeline.start(settings.clone()).unwrap();
    while run.finished_steps() < STEPS - 1 {
        run.advance(1).unwrap();
    }
    let again = Run::start(run.into_engine(), config, settings, 0).unwrap();
    assert!(again.finish(|_| {}).unwrap().samples == want.samples);
}

#[test]
fn traces_keep_the_size_of_tokens() {
    let pipeline = Pipeline::cpu(&model(true)).unwrap();
    let settings = settings(pipeline.config(), "heun", RoutingRule::Token);
    let trace = pipeline.start(settings).unwrap().finish(|_| {}).unwrap().trace;
    let as_json = Trace::from_bytes(trace.to_json().unwrap().as_bytes()).unwrap();
    let scales =
        |trace: &Trace| -> Vec<u32> { trace.forwards().iter().map(|pass| pass.scale).collect() };
    assert_eq!(scales(&as_json), scales(&trace));
    assert_eq!(Trace::from_bytes(&trace.to_safetensors().unwrap()).unwrap(), trace);
    let wrong = trace.to_json().unwrap().replace(r#""scale":2"#, r#""scale":3"#);
    let error = Trace::from_bytes(wrong.as_bytes()).unwrap_err().to_string();
    assert!(error.contains("tokens that do not divide the grid"), "{error}");
    // The four patches of a coarse token look the same.
    let at = At { step: 0, layer: 0, branch: Branch::Conditional };
    let map = trace.token_map(at, 1).unwrap();
    assert!((0..32).all(|patch| map[patch] == map[patch / 8 * 8 + patch % 4 / 2 * 2]));
}

#[test]
fn files_hold_both_models() {
    let checkpoint = model(true);
    let config = checkpoint.config();
    let refiner = checkpoint.refiner().unwrap().unwrap();
    assert_eq!(refiner.config(), &config.refiner.as_ref().unwrap().config);
    assert!(refiner.refiner().unwrap().is_none());
    assert_eq!(checkpoint.shape("x_embedder.proj.weight").unwrap(), [32, 3, 4, 4]);
    assert_eq!(refiner.shape("x_embedder.proj.weight").unwrap(), [32, 3, 2, 2]);
    assert_eq!(refiner.shape("detail_head.conv_in.weight").unwrap(), [4, 9, 3, 3]);
    assert_eq!(checkpoint.list().len(), config.stored_tensors().len());
    assert_eq!(
        config.stored_tensors().len(),
        config.tensors().len() + refiner.config().tensors().len()
    );
    // In every format of weights.
    for storage in [Storage::F16, Storage::Int8, Storage::Int4] {
        let read = |spec: &diffmoe::model::TensorSpec| {
            Ok(diffmoe::checkpoint::random_tensor(config, spec, 4))
        };
        let bytes = model_bytes(&document(true), storage, &read).unwrap();
        let file = Checkpoint::from_bytes("x", Bytes::new(bytes)).unwrap();
        let refiner = file.refiner().unwrap().unwrap();
        for of in [&file, &refiner] {
            assert_eq!(of.storage("blocks.0.attn.qkv.weight").unwrap(), storage);
        }
        Pipeline::cpu(&file).unwrap();
    }
}

#[test]
fn refiners_that_do_not_fit_are_refused() {
    let whole = document(true);
    let refused = |from: &str, to: &str, reason: &str| {
        assert!(whole.contains(from), "{from}");
        // The refiner comes last.
        let at = whole.rfind(from).unwrap();
        let text = format!("{}{to}{}", &whole[..at], &whole[at + from.len()..]);
        let error = Config::from_json(&text).unwrap_err().to_string();
        assert!(error.contains(reason), "{error}");
    };
    refused(r#""from":0.5"#, r#""from":0"#, "a time between 0 and 1");
    refused(r#""from":0.5"#, r#""from":1.5"#, "a time between 0 and 1");
    refused(r#""input_size":[16,8]"#, r#""input_size":[8,8]"#, "with other samples");
    refused(r#""num_classes":5"#, r#""num_classes":6"#, "with other labels");
    refused(r#""num_experts":4"#, r#""num_experts":8"#, "with other experts");
    refused(r#""depth":3"#, r#""depth":4"#, "with other experts");
    refused(r#""patch_size":2"#, r#""patch_size":8"#, "do not divide");
    refused(r#","params""#, r#","parameters""#, "needs params");
    let ddpm = document(true).replace(r#""t_kind":"flow""#, r#""t_kind":"ddpm""#);
    assert!(Config::from_json(&ddpm).is_err());
    let nested = whole
        .replace(r#""from":0.5,"params":{"#, r#""from":0.5,"params":{"refiner":{"from":0.5},"#);
    assert!(Config::from_json(&nested).unwrap().finest().refiner.is_none());
    for text in [r#"{"refiner":[0.5]}"#, r#"{"refiner":{"from":0.5,"params":null}}"#] {
        assert!(Config::from_json(text).is_err());
    }
}
