//! The pipelines of real models: models are loaded on a device and their steps recorded, which creates
//! every pipeline and computes nothing.

use std::path::Path;
use std::sync::Arc;

use diffmoe::checkpoint::{Checkpoint, random_tensor, write_model};
use diffmoe::engine::{Engine, GpuEngine, GpuModel, RunConfig, WeightChoice};
use diffmoe::gpu::{Gpu, GpuOptions, Profile, Specialisation};
use diffmoe::kernels::WeightPrecision;
use diffmoe::model::{Config, Preset, Storage};
use diffmoe::scheduler::{CycleSpin, Instruction, Next, ScheduleConfig, SchedulerKind, StepNoise};
use diffmoe::vae::{DecoderFile, GpuDecoder, GpuDecoderModel};

/// What a driver compiles.
pub(crate) struct Pipeline(Specialisation);

/// Models that the repository has: the shipped ones, and small ones of forms that those lack.
const FILES: [&str; 11] = [
    "assets/emoji.safetensors",
    "assets/eurosat.safetensors",
    "assets/emoji_text.safetensors",
    "tests/fixtures/diffmoe_flow/model.safetensors",
    "tests/fixtures/diffmoe_swiglu_shared/model.safetensors",
    "tests/fixtures/t2i_tiny/model.safetensors",
    "tests/fixtures/t2i_bpe/model.safetensors",
    "tests/fixtures/detail_head/model.safetensors",
    "tests/fixtures/dsmoe/model.safetensors",
    "tests/fixtures/promoe/model.safetensors",
    "tests/fixtures/promoe_ec/model.safetensors",
];

/// Sizes of the paper, for their widths: heads of 64, of 24, and of 72 numbers.
const PRESETS: [&str; 4] = ["S-E16", "S-128-E16", "XL-E8", "XXL-E8"];

/// Numbers of heads for S, whose 384 columns they share: 96 and 128 numbers, the widest that kernels take.
const MORE_HEADS: [u64; 2] = [4, 3];

const DECODERS: [&str; 2] = [
    "tests/fixtures/vae_kl_mini/model.safetensors",
    "tests/fixtures/vae_tiny_mini/model.safetensors",
];

/// Small and large products get different tiles.
const BATCHES: [usize; 3] = [1, 4, 16];

const PRECISIONS: [WeightPrecision; 4] =
    [WeightPrecision::F32, WeightPrecision::F16, WeightPrecision::Int8, WeightPrecision::Int4];

impl Pipeline {
    /// All constants: those of the shader, then those of the call.
    fn constants(&self) -> impl Iterator<Item = (&'static str, f64)> {
        let Specialisation { shader, constants } = &self.0;
        let sizes = shader.sizes.iter().map(|&(name, value)| (name, f64::from(value)));
        sizes.chain(constants.iter().copied())
    }

    /// Kernel and constants, as in `attention QUADS=16 LANES_X=8`.
    pub(crate) fn name(&self) -> String {
        let constants = self.constants().map(|(name, value)| format!(" {name}={value}"));
        std::iter::once(self.0.shader.name.to_owned()).chain(constants).collect()
    }

    /// Leaves text and constants where the compiling process finds them.
    pub(crate) fn write(&self, folder: &Path, index: usize) -> std::io::Result<()> {
        std::fs::write(folder.join(format!("{index}.wgsl")), self.0.shader.source)?;
        let lines = self.constants().map(|(name, value)| format!("{name}\t{value}\n"));
        std::fs::write(folder.join(format!("{index}.constants")), lines.collect::<String>())
    }
}

/// Every pipeline of the models above with the kernels that GPUs get, by name and constants.
pub(crate) fn of_real_models(root: &Path) -> Result<Vec<Pipeline>, String> {
    let options = GpuOptions { profile: Some(Profile::Gpu), ..GpuOptions::default() };
    let gpu = Arc::new(Gpu::headless_with(options).map_err(|e| e.to_string())?);
    for file in FILES {
        let checkpoint = Checkpoint::open(&root.join(file)).map_err(|e| e.to_string())?;
        let choices = std::iter::once(WeightChoice::Auto).chain(PRECISIONS.map(Into::into));
        // A shipped model is used as it is shipped.
        let count = if file.starts_with("assets") { 1 } else { 1 + PRECISIONS.len() };
        for choice in choices.take(count) {
            record(&gpu, &checkpoint, choice).map_err(|e| format!("{file}: {e}"))?;
        }
    }
    for (name, config) in random_models()? {
        let folder = tempfile::tempdir().map_err(|e| e.to_string())?;
        let path = folder.path().join("random.safetensors");
        let checkpoint = random(&config, &path).map_err(|e| format!("{name}: {e}"))?;
        record(&gpu, &checkpoint, WeightChoice::Auto).map_err(|e| format!("{name}: {e}"))?;
    }
    for file in DECODERS {
        let decoder = DecoderFile::open(&root.join(file)).map_err(|e| e.to_string())?;
        for precision in [WeightPrecision::F32, WeightPrecision::F16] {
            let model = GpuDecoderModel::load(gpu.clone(), &decoder, precision);
            let model = model.map_err(|e| format!("{file}: {e}"))?;
            GpuDecoder::new(Arc::new(model), [8, 8]).map_err(|e| format!("{file}: {e}"))?;
        }
    }
    if let Some(error) = gpu.failure() {
        return Err(error.to_string());
    }
    Ok(gpu.specialisations().into_iter().map(Pipeline).collect())
}

/// Makes the pipelines of a model's guided steps.
fn record(
    gpu: &Arc<Gpu>,
    checkpoint: &Checkpoint,
    choice: WeightChoice,
) -> Result<(), Box<dyn std::error::Error>> {
    let model = Arc::new(GpuModel::load(gpu.clone(), checkpoint, choice)?);
    for batch in BATCHES {
        let config = checkpoint.config();
        let mut engine = GpuEngine::new(model.clone(), batch)?;
        let prompts = if config.text.is_some() { batch } else { 0 };
        engine.start(&RunConfig {
            latent: vec![0.0; batch * config.sample_len()],
            labels: config.labels.iter().map(|_| vec![0; batch]).collect(),
            prompts: vec![String::new(); prompts],
            ..RunConfig::default()
        })?;
        engine.dispatches(&guided_step(config, batch))?;
    }
    // The device frees the memory of this model when it has processed that it is unused.
    drop(model);
    gpu.flush()?;
    Ok(())
}

fn guided_step(config: &Config, batch: usize) -> Vec<Instruction> {
    let scheduler = SchedulerKind::for_objective(config.objective)[0];
    let noise = StepNoise::Seeded { seed: 0, images: 0..batch as u64 };
    let spin = CycleSpin { count: 2, from: 0.0 };
    let run = ScheduleConfig { spin, ..ScheduleConfig::new(2, 2.0, noise) };
    match scheduler.schedule(config, run).next() {
        Next::Step(ops) => ops,
        _ => Vec::new(),
    }
}

/// Configurations of the paper's sizes, cut to a dense block and one with two experts: kernels depend on neither.
fn random_models() -> Result<Vec<(String, String)>, String> {
    let mut models = Vec::new();
    for name in PRESETS {
        let preset: Preset = name.parse().map_err(|e| format!("{e}"))?;
        models.push((name.to_owned(), shortened(&preset.to_json(), None)?));
    }
    let small: Preset = "S-E16".parse().map_err(|e| format!("{e}"))?;
    for heads in MORE_HEADS {
        models.push((format!("S with {heads} heads"), shortened(&small.to_json(), Some(heads))?));
    }
    let ddpm: Preset = "S-E16-ddpm".parse().map_err(|e| format!("{e}"))?;
    models.push(("S-E16-ddpm".to_owned(), shortened(&ddpm.to_json(), None)?));
    Ok(models)
}

fn shortened(config: &str, heads: Option<u64>) -> Result<String, String> {
    let mut config: serde_json::Value = serde_json::from_str(config).map_err(|e| e.to_string())?;
    config["params"]["depth"] = 2.into();
    config["params"]["MoE_config"]["num_experts"] = 2.into();
    if let Some(heads) = heads {
        config["params"]["num_heads"] = heads.into();
    }
    Ok(config.to_string())
}

fn random(config_text: &str, path: &Path) -> Result<Checkpoint, Box<dyn std::error::Error>> {
    let config = Config::from_json(config_text)?;
    let read = |spec: &_| Ok(random_tensor(&config, spec, 0));
    write_model(path, config_text, &config.tensors(), Storage::F16, None, &read)?;
    Ok(Checkpoint::open(path)?)
}
