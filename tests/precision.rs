//! Reduced-precision weights on the GPU, compared with the CPU backend, which computes in f32.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail like tests")]

mod device;

use std::sync::Arc;

use device::{device, turn};
use diffmoe::checkpoint::{Checkpoint, write_model};
use diffmoe::engine::{CpuEngine, CpuModel};
use diffmoe::engine::{Footprint, GpuEngine, GpuModel, Inspect, RunConfig, WeightChoice};
use diffmoe::gpu::Profile;
use diffmoe::kernels::WeightPrecision;
use diffmoe::model::{Config, Routing, RoutingRule, Storage, TensorSpec};
use diffmoe::platform::Bytes;
use diffmoe::scheduler::{gaussian, random_rows};

fn largest_difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    let differences = a.iter().zip(b).map(|(a, b)| (a - b).abs());
    differences.fold(0.0, |m, d| if d > m || d.is_nan() { d } else { m })
}

fn shipped(name: &str) -> Checkpoint {
    diffmoe_models::open(name).unwrap().unwrap()
}

/// The shipped model as `convert` writes it: its own file has one large matrix in f16, the others in int8.
fn emoji_in(storage: Storage) -> Checkpoint {
    let shipped = shipped("emoji");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("emoji.safetensors");
    let read = |spec: &TensorSpec| shipped.read(&spec.name);
    let tensors = shipped.config().tensors();
    let is_there = |t: &TensorSpec| shipped.shape(&t.name).is_ok();
    let tensors: Vec<_> = tensors.into_iter().filter(is_there).collect();
    write_model(&path, shipped.config_text(), &tensors, storage, None, &read).unwrap();
    Checkpoint::from_bytes("emoji", Bytes::new(std::fs::read(path).unwrap())).unwrap()
}

/// Noise and labels for a pass of a shipped model.
fn noise_run(config: &Config, batch: usize, rule: RoutingRule) -> RunConfig {
    let labels = config.labels.iter().enumerate();
    let labels = labels.map(|(i, table)| random_rows(3, i as u32, table.null, batch)).collect();
    let latent = (0..batch as u64).flat_map(|i| gaussian(11, i, config.sample_len())).collect();
    RunConfig {
        latent,
        labels,
        routing: Routing { rule, ..Routing::default() },
        ..RunConfig::default()
    }
}

type Tap = (String, Vec<usize>, Vec<f32>);

/// The sets of tokens that experts take, and the output.
fn choices(taps: &[Tap]) -> (Vec<&Tap>, &[f32]) {
    let sets = taps.iter().filter(|(name, ..)| name.ends_with(".selected")).collect();
    (sets, &taps.last().unwrap().2)
}

#[test]
fn whole_numbers_stay_what_they_are_and_give_what_the_processor_gives() {
    let _turn = turn();
    for (checkpoint, kinds) in [
        (shipped("emoji"), "int8 and f16"),
        (emoji_in(Storage::Int8), "int8"),
        (emoji_in(Storage::Int4), "int4"),
    ] {
        compare(&checkpoint, kinds);
    }
}

/// Compares what a device gives with `--weights auto` with what the processor gives with the same numbers.
fn compare(checkpoint: &Checkpoint, kinds: &str) {
    let config = checkpoint.config();
    let (batch, times) = (2, [0.3, 0.3]);
    let cpu = Arc::new(CpuModel::load(checkpoint).unwrap());
    for profile in [Profile::Software, Profile::Gpu] {
        let model = GpuModel::load(device(profile), checkpoint, WeightChoice::Auto).unwrap();
        assert!(model.device().ends_with(&format!(", {kinds} weights")), "{}", model.device());
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
            println!("{kinds}, {profile:?} {rule:?}: {error:.2e} of the largest number");
            assert!(error <= 1e-4, "{kinds}, {profile:?} {rule:?}: {error} off");
        }
    }
}

#[test]
fn the_footprint_is_what_the_shipped_files_take_to_the_byte() {
    let _turn = turn();
    let gpu = device(Profile::Software);
    for (name, kinds) in [("emoji", "int8 and f16"), ("emoji_text", "int8"), ("eurosat", "int8")] {
        let checkpoint = shipped(name);
        let precisions = WeightChoice::Auto.resolve(&checkpoint);
        assert_eq!(precisions.to_string(), kinds, "{name}");
        let all = [WeightPrecision::F32, WeightPrecision::Int8, WeightPrecision::Int4];
        let choices = all.map(WeightChoice::Exactly).into_iter().chain([WeightChoice::Auto]);
        for choice in choices {
            let precisions = choice.resolve(&checkpoint);
            let foreseen = Footprint::on_gpu(
                checkpoint.config(),
                1,
                precisions,
                gpu.profile,
                gpu.binding_limit,
            )
            .weights;
            let before = gpu.allocated_bytes();
            let model = GpuModel::load(gpu.clone(), &checkpoint, choice).unwrap();
            let taken = gpu.allocated_bytes() - before;
            println!("{name}, {choice:?}: {taken}");
            assert_eq!((foreseen, model.weight_bytes()), (taken, taken), "{name}, {choice:?}");
        }
    }
}

#[test]
fn the_error_of_int8_and_int4_is_small_and_moves_few_tokens() {
    use WeightPrecision::{F16, Int4, Int8};
    let _turn = turn();
    // Output and decisions. The files are int8: f16 rounds their numbers, and int4 loses more.
    let of_eurosat = [(F16, 2e-3, 5e-4), (Int8, 1e-5, 1e-4), (Int4, 0.2, 0.03)];
    let of_emoji = [(Int4, 0.2, 0.03)];
    for (name, allowed) in [("eurosat", &of_eurosat[..]), ("emoji", &of_emoji[..])] {
        let checkpoint = shipped(name);
        let batch = 8;
        let run = noise_run(checkpoint.config(), batch, RoutingRule::Token);
        let cpu = Arc::new(CpuModel::load(&checkpoint).unwrap());
        for time in [0.1, 0.5, 0.9] {
            let times = vec![time; batch];
            let exact = CpuEngine::new(cpu.clone(), batch).forward_with_taps(&run, &times).unwrap();
            for &(precision, most, most_moved) in allowed {
                let model =
                    GpuModel::load(device(Profile::Software), &checkpoint, precision).unwrap();
                let mut engine = GpuEngine::new(Arc::new(model), batch).unwrap();
                let taps = engine.forward_with_taps(&run, &times).unwrap();
                let (error, moved) = deviation(&choices(&taps), &choices(&exact));
                println!(
                    "{name}, t = {time}, {precision}: output {error:.2e} (RMS), decisions {moved:.2e}"
                );
                let is_small = error <= most && moved <= most_moved;
                assert!(is_small, "{name}, t = {time}, {precision}: {error}, {moved}");
            }
        }
    }
}

/// Root mean square of the difference of outputs, relative; and the share of routing decisions that differ.
fn deviation(got: &(Vec<&Tap>, &[f32]), want: &(Vec<&Tap>, &[f32])) -> (f64, f64) {
    let square = |v: f32| f64::from(v) * f64::from(v);
    let error: f64 = got.1.iter().zip(want.1).map(|(a, b)| square(a - b)).sum();
    let error = (error / want.1.iter().map(|&v| square(v)).sum::<f64>()).sqrt();
    let pairs = || got.0.iter().zip(&want.0).flat_map(|(a, b)| a.2.iter().zip(&b.2));
    let moved = pairs().filter(|(a, b)| a.to_bits() != b.to_bits()).count();
    (error, moved as f64 / pairs().count() as f64)
}
