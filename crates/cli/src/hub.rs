//! The layout of model hubs: a folder that diffusers loads, with the code it needs, and that every command opens.

use std::path::{Path, PathBuf};

use diffmoe::checkpoint::{CheckpointError, write_model};
use diffmoe::model::{Config, Objective, Storage, TensorSpec, file_bytes};
use serde_json::{Value, json};

/// The class in `transformer_diffmoe.py`.
const TRANSFORMER: &str = "DiffMoETransformer2DModel";
/// The oldest version of diffusers that the folder is written for.
const DIFFUSERS: &str = "0.35.0";
const PIPELINE_CODE: &str = include_str!("hub/pipeline.py");
const TRANSFORMER_CODE: &str = include_str!("hub/transformer_diffmoe.py");

/// The configuration beside weights that diffusers saved, which keeps no header entries of others.
pub(super) fn config_beside(file: &Path) -> Option<String> {
    let text = std::fs::read_to_string(file.with_file_name("config.json")).ok()?;
    let mut document: Value = serde_json::from_str(&text).ok()?;
    let entries = document.as_object_mut()?;
    if entries.get("_class_name")? != TRANSFORMER {
        return None;
    }
    entries.retain(|key, _| !key.starts_with('_'));
    Some(document.to_string())
}

/// A model in this layout.
pub(super) struct Model<'m> {
    /// Its configuration, as in a model file.
    pub(super) text: &'m str,
    pub(super) tensors: &'m [TensorSpec],
    pub(super) storage: Storage,
    /// Weights that are larger are written in parts of this size.
    pub(super) part_bytes: u64,
}

impl Model<'_> {
    /// Writes the folder, which appears when it is complete, and returns the path of the weights or their index.
    pub(super) fn write(
        &self,
        folder: &Path,
        read: &dyn Fn(&TensorSpec) -> Result<Vec<f32>, CheckpointError>,
    ) -> Result<PathBuf, Box<dyn std::error::Error>> {
        let config = Config::from_json(self.text)
            .map_err(|_| "--layout diffusers is for models; image decoders have it already")?;
        if matches!(self.storage, Storage::Int8 | Storage::Int4) {
            return Err("diffusers reads no integers: use --dtype f32 or f16".into());
        }
        let occupied =
            folder.read_dir().map_or(folder.exists(), |mut files| files.next().is_some());
        if occupied {
            return Err(format!("{} is not empty; choose another folder", folder.display()).into());
        }
        let name = folder.file_name().ok_or("the folder needs a name")?.to_string_lossy();
        let part = folder.with_file_name(format!(".part-{}-{name}", std::process::id()));
        let written = self.fill(&part, &config, read).and_then(|weights| {
            // Windows renames onto no folder, not even an empty one.
            let _ = std::fs::remove_dir(folder);
            std::fs::rename(&part, folder)?;
            Ok(folder.join(weights.strip_prefix(&part)?))
        });
        if written.is_err() {
            let _ = std::fs::remove_dir_all(&part);
        }
        written.map_err(|error| format!("cannot write {}: {error}", folder.display()).into())
    }

    fn fill(
        &self,
        folder: &Path,
        config: &Config,
        read: &dyn Fn(&TensorSpec) -> Result<Vec<f32>, CheckpointError>,
    ) -> Result<PathBuf, Box<dyn std::error::Error>> {
        let mut document: Value = serde_json::from_str(self.text)?;
        let license = document["card"]["licence"].as_str().map(str::to_owned);
        if let Some(entries) = document.as_object_mut() {
            entries.insert("_class_name".into(), TRANSFORMER.into());
            entries.insert("_diffusers_version".into(), DIFFUSERS.into());
        }
        let (scheduler_name, scheduler) = scheduler(config.objective);
        let index = json!({
            "_class_name": ["pipeline", "DiffMoEPipeline"], "_diffusers_version": DIFFUSERS,
            "transformer": ["transformer_diffmoe", TRANSFORMER],
            "scheduler": ["diffusers", scheduler_name],
        });
        for part in ["transformer", "scheduler"] {
            std::fs::create_dir_all(folder.join(part))?;
        }
        let put = |name: &str, text: &str| std::fs::write(folder.join(name), text);
        put("model_index.json", &serde_json::to_string_pretty(&index)?)?;
        put("pipeline.py", PIPELINE_CODE)?;
        put("README.md", &card(config, license.as_deref()))?;
        put("scheduler/scheduler_config.json", &serde_json::to_string_pretty(&scheduler)?)?;
        put("transformer/config.json", &serde_json::to_string_pretty(&document)?)?;
        put("transformer/transformer_diffmoe.py", TRANSFORMER_CODE)?;
        let weights = folder.join("transformer/diffusion_pytorch_model.safetensors");
        let is_large = file_bytes(config, self.storage) > self.part_bytes;
        let parts = is_large.then_some(self.part_bytes);
        Ok(write_model(&weights, self.text, self.tensors, self.storage, parts, read)?)
    }
}

/// The scheduler of diffusers for an objective, and its configuration.
fn scheduler(objective: Objective) -> (&'static str, Value) {
    match objective {
        Objective::Flow => (
            "FlowMatchEulerDiscreteScheduler",
            json!({
                "_class_name": "FlowMatchEulerDiscreteScheduler", "_diffusers_version": DIFFUSERS,
                "num_train_timesteps": 1000, "shift": 1.0,
            }),
        ),
        Objective::Ddpm => (
            "DDIMScheduler",
            json!({
                "_class_name": "DDIMScheduler", "_diffusers_version": DIFFUSERS,
                "num_train_timesteps": 1000, "beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear",
                "clip_sample": false, "prediction_type": "epsilon", "timestep_spacing": "leading",
            }),
        ),
    }
}

/// The model card, with the front matter that hubs read. A licence is a sentence in our files: it goes into the text.
fn card(config: &Config, license: Option<&str>) -> String {
    let license = license.map_or_else(String::new, |text| format!("\nLicence: {text}\n"));
    let (task, images) = match config.text.as_ref().map(|text| text.examples.first()) {
        Some(example) => {
            let prompt = example.map_or("", String::as_str);
            ("text-to-image", format!("prompt={}, num_images=4", json!(prompt)))
        }
        None => ("unconditional-image-generation", "num_images=4".to_owned()),
    };
    format!(
        "---\nlibrary_name: diffusers\npipeline_tag: {task}\ntags:\n- diffmoe\n- mixture-of-experts\n\
         - diffusion-transformer\n---\n# {}\n\nWritten by `diffmoe convert --layout diffusers`.\n\n```python\n\
         from diffusers import DiffusionPipeline\n\n\
         pipe = DiffusionPipeline.from_pretrained(folder, custom_pipeline=folder, trust_remote_code=True)\n\
         images = pipe({images}).images\n```\n{license}",
        config.name
    )
}
