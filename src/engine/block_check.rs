//! The first blocks of a model on a GPU against the same blocks on the processor: the kernels that a model really uses,
//! at its sizes, with its weights.

use std::sync::Arc;

use super::gpu::FIRST_BATCH;
use super::{CpuEngine, CpuModel, Engine, EngineError, GpuEngine, GpuModel, RunConfig};
use crate::checkpoint::Checkpoint;
use crate::kernels::probes::Finding;
use crate::model::{Config, Objective};
use crate::scheduler::gaussian;

/// The error that nineteen of twenty tokens stay below, in deviations of the stream. f16 weights are off by 5e-4 each,
/// their sums by 1e-3. The rest may have gone to another expert, because a score was near its threshold.
const TOLERANCE: f32 = 0.02;

/// Where the weights themselves are rounded to a coarser format than the file's.
const COARSE_TOLERANCE: f32 = 0.5;

/// The part of the tokens that is judged.
const JUDGED: f32 = 0.95;

/// Computes the blocks up to the first one with experts, of a batch as an app draws it, on both. Takes some ten
/// milliseconds for a small model; the processor computes one image.
///
/// # Errors
/// When a tensor cannot be read, or the device has no memory for a batch, is lost, or does not answer.
pub async fn check_block(
    model: &Arc<GpuModel>,
    checkpoint: &Checkpoint,
) -> Result<Finding, EngineError> {
    let config = checkpoint.config();
    let blocks = config.moe_blocks().first().map_or(1, |block| block + 1);
    let time = match config.objective {
        Objective::Flow => 0.5,
        Objective::Ddpm => 500.0,
    };
    // Software is slow, and has one size of tiles.
    let batch = if model.gpu.is_software() { 1 } else { FIRST_BATCH };
    let mut engine = GpuEngine::new(model.clone(), batch)?;
    engine.start(&run(config, batch))?;
    let got = engine.stream_after(time, blocks).await?;
    drop(engine);
    let reference = CpuModel::load_blocks(checkpoint, blocks).await?;
    let mut reference = CpuEngine::new(Arc::new(reference), 1);
    reference.start(&run(config, 1))?;
    let want = reference.stream(time);
    let allowed = if model.keeps_formats(checkpoint) { TOLERANCE } else { COARSE_TOLERANCE };
    let error = error(&got, &want, config.hidden_size);
    Ok(Finding { kernel: format!("block {} of {}", blocks - 1, config.name), error, allowed })
}

/// The same image so many times.
fn run(config: &Config, batch: usize) -> RunConfig {
    let example = config.text.as_ref().map(|text| text.examples.first().cloned());
    RunConfig {
        latent: gaussian(1, 0, config.sample_len()).repeat(batch),
        labels: config.labels.iter().map(|_| vec![0; batch]).collect(),
        prompts: example.map_or(Vec::new(), |prompt| vec![prompt.unwrap_or_default(); batch]),
        ..RunConfig::default()
    }
}

/// The error of the tokens, `[B·T, D]`, which most of them stay below; `want` is one image.
fn error(got: &[f32], want: &[f32], width: usize) -> f32 {
    let mean_square = |values: &mut dyn Iterator<Item = f32>| {
        let (sum, count) = values.fold((0.0, 0), |(sum, count), v| (sum + v * v, count + 1));
        sum / count as f32
    };
    let scale = mean_square(&mut want.iter().copied()).sqrt().max(f32::MIN_POSITIVE);
    let tokens = got.chunks(width).zip(want.chunks(width).cycle());
    let mut errors: Vec<f32> = tokens
        .map(|(got, want)| {
            let error = mean_square(&mut got.iter().zip(want).map(|(got, want)| got - want)).sqrt();
            if error.is_finite() { error / scale } else { f32::INFINITY }
        })
        .collect();
    errors.sort_by(f32::total_cmp);
    // A number that is not finite never passes, wherever it is.
    match errors.last() {
        Some(worst) if worst.is_finite() => errors[((errors.len() - 1) as f32 * JUDGED) as usize],
        _ => f32::INFINITY,
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::engine::WeightChoice;
    use crate::gpu::{Gpu, GpuOptions, Profile, Sabotage};

    fn check(case: &str, gpu: &Arc<Gpu>) -> Finding {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
        let checkpoint = Checkpoint::open(&root.join(case).join("model.safetensors")).unwrap();
        let model = GpuModel::load(gpu.clone(), &checkpoint, WeightChoice::Auto).unwrap();
        pollster::block_on(check_block(&Arc::new(model), &checkpoint)).unwrap()
    }

    #[test]
    fn every_kind_of_model_passes_and_a_wrong_kernel_does_not() {
        let cases = [
            "dense_flow",
            "tc_flow",
            "ec_flow",
            "diffmoe_flow",
            "diffmoe_ddpm",
            "diffmoe_swiglu_shared",
            "detail_head",
            "dsmoe",
            "jit_moe",
            "t2i_tiny",
        ];
        for profile in [Profile::Gpu, Profile::Software] {
            let options = GpuOptions { profile: Some(profile), ..GpuOptions::default() };
            let good = Arc::new(Gpu::headless_with(options).unwrap());
            for case in cases {
                let finding = check(case, &good);
                assert!(finding.passes(), "{case}, {profile:?}: {finding:?}");
            }
            let shader: fn(&str, &str) -> Option<String> = |name, text| {
                let scale = text.replace("params.scale", "0.5 * params.scale");
                name.starts_with("attention").then_some(scale)
            };
            let sabotage = Sabotage { shader: Some(shader), ..Sabotage::default() };
            let options = GpuOptions { profile: Some(profile), sabotage, ..GpuOptions::default() };
            let wrong = Arc::new(Gpu::headless_with(options).unwrap());
            let finding = check("diffmoe_flow", &wrong);
            assert!(!finding.passes(), "{profile:?}: {finding:?}");
        }
    }

    #[test]
    fn one_token_in_twenty_may_differ_but_none_may_be_infinite() {
        let want: Vec<f32> = (0..40 * 4).map(|i| [1.0, -1.0][i % 2]).collect();
        let mut got = want.repeat(2);
        assert_eq!(error(&got, &want, 4).to_bits(), 0);
        got[..3 * 4].fill(5.0);
        assert_eq!(error(&got, &want, 4).to_bits(), 0);
        got[..5 * 4].fill(5.0);
        assert!(error(&got, &want, 4) > 1.0);
        let mut got = want.clone();
        got[7] = f32::NAN;
        assert!(error(&got, &want, 4).is_infinite());
    }
}
