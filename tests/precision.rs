//! Weights that are less than f32 on the device: what int8 rows give, beside the processor, which computes with f32.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail like tests")]

mod device;

use std::sync::Arc;

use device::{device, turn};
use diffmoe::checkpoint::{Checkpoint, embedded, write_model};
use diffmoe::cpu::{CpuEngine, CpuModel};
use diffmoe::diffusion::{gaussian, random_rows};
use diffmoe::gpu::Profile;
use diffmoe::kernels::WeightPrecision;
use diffmoe::model::{
    Config, Engine, GpuEngine, GpuModel, Routing, RoutingRule, RunSpec, Storage, TensorSpec,
    WeightChoice,
};
use diffmoe::platform::Bytes;

fn largest_difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    let differences = a.iter().zip(b).map(|(a, b)| (a - b).abs());
    differences.fold(0.0, |m, d| if d > m || d.is_nan() { d } else { m })
}

/// The shipped model as `convert --dtype int8` writes it: its own file has one large matrix in f16.
fn emoji_in_int8() -> Checkpoint {
    let shipped = embedded::open("emoji").unwrap().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("int8.safetensors");
    let read = |spec: &TensorSpec| shipped.read(&spec.name);
    let tensors = shipped.config().tensors();
    let is_there = |t: &TensorSpec| shipped.shape(&t.name).is_ok();
    let tensors: Vec<_> = tensors.into_iter().filter(is_there).collect();
    write_model(&path, shipped.config_text(), &tensors, Storage::Int8, None, &read).unwrap();
    Checkpoint::from_bytes("int8", Bytes::new(std::fs::read(path).unwrap())).unwrap()
}

/// Noise and labels for a pass of a shipped model.
fn noise_run(config: &Config, batch: usize, rule: RoutingRule) -> RunSpec {
    let labels = config.labels.iter().enumerate();
    let labels = labels.map(|(i, table)| random_rows(3, i as u32, table.null, batch)).collect();
    let latent = (0..batch as u64).flat_map(|i| gaussian(11, i, config.sample_len())).collect();
    RunSpec {
        latent,
        labels,
        routing: Routing { rule, ..Routing::default() },
        ..RunSpec::default()
    }
}

type Tap = (String, Vec<usize>, Vec<f32>);

/// The sets of tokens that experts take, and the output.
fn choices(taps: &[Tap]) -> (Vec<&Tap>, &[f32]) {
    let sets = taps.iter().filter(|(name, ..)| name.ends_with(".selected")).collect();
    (sets, &taps.last().unwrap().2)
}

#[test]
fn int8_rows_stay_int8_and_give_what_the_processor_gives() {
    let _turn = turn();
    let checkpoint = emoji_in_int8();
    let config = checkpoint.config();
    let (batch, times) = (2, [0.3, 0.3]);
    let cpu = Arc::new(CpuModel::load(&checkpoint).unwrap());
    for profile in [Profile::Software, Profile::Gpu] {
        let model = GpuModel::load(device(profile), &checkpoint, WeightChoice::Auto).unwrap();
        assert!(model.device().ends_with("int8 weights"), "{}", model.device());
        let bytes = model.weight_bytes() as f64 / checkpoint.bytes() as f64;
        assert!(bytes < 1.15, "{bytes} times the file");
        let mut gpu = GpuEngine::new(Arc::new(model), batch).unwrap();
        for rule in [RoutingRule::Pool, RoutingRule::Token] {
            let run = noise_run(config, batch, rule);
            let want = CpuEngine::new(cpu.clone(), batch).forward_with_taps(&run, &times).unwrap();
            let got = gpu.forward_with_taps(&run, &times).unwrap();
            let ((sets, out), (wanted_sets, wanted)) = (choices(&got), choices(&want));
            assert!(!sets.is_empty() && sets == wanted_sets, "{rule:?}: other tokens");
            let size = wanted.iter().fold(0.0_f32, |m, v| m.max(v.abs()));
            let error = largest_difference(out, wanted) / size;
            println!("{profile:?} {rule:?}: {error:.2e} of the largest number");
            assert!(error <= 1e-4, "{profile:?} {rule:?}: {error} off");
        }
    }
}

#[test]
fn the_error_of_int8_is_small_and_moves_few_tokens() {
    let _turn = turn();
    let checkpoint = embedded::open("eurosat").unwrap().unwrap();
    let batch = 8;
    let run = noise_run(checkpoint.config(), batch, RoutingRule::Token);
    let cpu = Arc::new(CpuModel::load(&checkpoint).unwrap());
    for time in [0.1, 0.5, 0.9] {
        let times = vec![time; batch];
        let exact = CpuEngine::new(cpu.clone(), batch).forward_with_taps(&run, &times).unwrap();
        let (wanted_sets, wanted) = choices(&exact);
        for precision in [WeightPrecision::F16, WeightPrecision::Int8] {
            let model = GpuModel::load(device(Profile::Software), &checkpoint, precision).unwrap();
            let mut engine = GpuEngine::new(Arc::new(model), batch).unwrap();
            let taps = engine.forward_with_taps(&run, &times).unwrap();
            let (sets, out) = choices(&taps);
            let square = |v: f32| f64::from(v) * f64::from(v);
            let error: f64 = out.iter().zip(wanted).map(|(a, b)| square(a - b)).sum();
            let error = (error / wanted.iter().map(|&v| square(v)).sum::<f64>()).sqrt();
            let pairs = || sets.iter().zip(&wanted_sets).flat_map(|(a, b)| a.2.iter().zip(&b.2));
            let moved = pairs().filter(|(a, b)| a.to_bits() != b.to_bits()).count() as f64
                / pairs().count() as f64;
            println!("t = {time}, {precision}: output {error:.2e} (RMS), decisions {moved:.2e}");
            // The file is f16: its own numbers lose nothing.
            let (most, most_moved) =
                if precision == WeightPrecision::F16 { (1e-5, 1e-4) } else { (0.02, 0.01) };
            assert!(error <= most && moved <= most_moved, "{precision}: {error}, {moved}");
        }
    }
}
