//! The layout of model hubs: a folder that diffusers loads, with the code it needs, and that every command opens.

use std::path::Path;

use diffmoe::checkpoint::{CheckpointError, ModelOut, StoredRows};
use diffmoe::model::{Config, Objective, REFINER, Storage, TensorSpec, refiner_document};
use serde_json::{Value, json};

/// The class in `transformer_diffmoe.py`.
const TRANSFORMER: &str = "DiffMoETransformer2DModel";
/// The entry of `config.json` that names the tensors with integers.
const INTEGERS: &str = "integers";
/// The oldest version of diffusers that the folder is written for.
const DIFFUSERS: &str = "0.35.0";
const PIPELINE_CODE: &str = include_str!("hub/pipeline.py");
const TRANSFORMER_CODE: &str = include_str!("hub/transformer_diffmoe.py");
const LAYERS_CODE: &str = include_str!("hub/layers_diffmoe.py");

/// The configuration beside weights that diffusers saved, which keeps no header entries of others.
pub(super) fn config_beside(file: &Path) -> Option<String> {
    let text = std::fs::read_to_string(file.with_file_name("config.json")).ok()?;
    let mut document: Value = serde_json::from_str(&text).ok()?;
    let entries = document.as_object_mut()?;
    if entries.get("_class_name")? != TRANSFORMER {
        return None;
    }
    entries.retain(|key, _| !key.starts_with('_') && key != INTEGERS);
    Some(document.to_string())
}

/// Numbers of a tensor of the model.
type Reader<'a, 'd> = dyn Fn(&TensorSpec) -> Result<StoredRows<'d>, CheckpointError> + 'a;

/// Writes the folder, which appears when it is complete. Weights that are larger than the parts of the model are written
/// in parts.
pub(super) fn write(
    model: ModelOut<'_>,
    folder: &Path,
    read: &Reader<'_, '_>,
) -> Result<(), Box<dyn std::error::Error>> {
    let config = Config::from_json(model.config_text)
        .map_err(|_| "--layout diffusers is for models; image decoders have it already")?;
    let occupied = folder.read_dir().map_or(folder.exists(), |mut files| files.next().is_some());
    if occupied {
        return Err(format!("{} is not empty; choose another folder", folder.display()).into());
    }
    let name = folder.file_name().ok_or("the folder needs a name")?.to_string_lossy();
    let part = folder.with_file_name(format!(".part-{}-{name}", std::process::id()));
    let written = fill(model, &part, &config, read).and_then(|()| {
        // Windows renames onto no folder, not even an empty one.
        let _ = std::fs::remove_dir(folder);
        Ok(std::fs::rename(&part, folder)?)
    });
    if written.is_err() {
        let _ = std::fs::remove_dir_all(&part);
    }
    written.map_err(|error| format!("cannot write {}: {error}", folder.display()).into())
}

fn fill(
    model: ModelOut<'_>,
    folder: &Path,
    config: &Config,
    read: &Reader<'_, '_>,
) -> Result<(), Box<dyn std::error::Error>> {
    let document: Value = serde_json::from_str(model.config_text)?;
    let license = document["card"]["licence"].as_str().map(str::to_owned);
    let (scheduler_name, scheduler) = scheduler(config.objective);
    let mut index = json!({
        "_class_name": ["pipeline", "DiffMoEPipeline"], "_diffusers_version": DIFFUSERS,
        "transformer": ["transformer_diffmoe", TRANSFORMER],
        "scheduler": ["diffusers", scheduler_name],
    });
    let (of_refiner, of_model): (Vec<_>, Vec<_>) =
        model.tensors.iter().cloned().partition(|(spec, _)| spec.name.starts_with(REFINER));
    let own = ModelOut { tensors: &of_model, ..model };
    transformer(own, &folder.join("transformer"), read)?;
    if config.refiner.is_some() {
        index["transformer_2"] = index["transformer"].clone();
        let named =
            |name: &str, spec: &TensorSpec| TensorSpec { name: name.into(), ..spec.clone() };
        let bare = |(spec, storage): (TensorSpec, Storage)| {
            (named(spec.name.strip_prefix(REFINER).unwrap_or(&spec.name), &spec), storage)
        };
        let tensors: Vec<_> = of_refiner.into_iter().map(bare).collect();
        let text = refiner_document(model.config_text)?;
        let refiner = ModelOut { config_text: &text, tensors: &tensors, ..model };
        let read = |spec: &TensorSpec| read(&named(&format!("{REFINER}{}", spec.name), spec));
        transformer(refiner, &folder.join("transformer_2"), &read)?;
    }
    std::fs::create_dir_all(folder.join("scheduler"))?;
    let put = |name: &str, text: &str| std::fs::write(folder.join(name), text);
    put("model_index.json", &serde_json::to_string_pretty(&index)?)?;
    put("pipeline.py", PIPELINE_CODE)?;
    put("README.md", &card(config, license.as_deref()))?;
    put("scheduler/scheduler_config.json", &serde_json::to_string_pretty(&scheduler)?)?;
    Ok(())
}

/// The folder of a transformer: its configuration, the code that reads it, and its weights.
fn transformer(
    model: ModelOut<'_>,
    folder: &Path,
    read: &Reader<'_, '_>,
) -> Result<(), Box<dyn std::error::Error>> {
    let mut document: Value = serde_json::from_str(model.config_text)?;
    if let Some(entries) = document.as_object_mut() {
        entries.insert("_class_name".into(), TRANSFORMER.into());
        entries.insert("_diffusers_version".into(), DIFFUSERS.into());
        entries.extend(integers(model.tensors).map(|of| (INTEGERS.into(), of)));
    }
    std::fs::create_dir_all(folder)?;
    let put = |name: &str, text: &str| std::fs::write(folder.join(name), text);
    put("config.json", &serde_json::to_string_pretty(&document)?)?;
    put("transformer_diffmoe.py", TRANSFORMER_CODE)?;
    put("layers_diffmoe.py", LAYERS_CODE)?;
    let bytes: u64 = model.tensors.iter().map(|(t, storage)| storage.bytes(t)).sum();
    let part_bytes = model.part_bytes.filter(|&most| bytes > most);
    let weights = folder.join("diffusion_pytorch_model.safetensors");
    ModelOut { part_bytes, is_module: true, ..model }.write(&weights, read)?;
    Ok(())
}

/// The names of the tensors that are integers with scales, by format: the code must know them before it has seen the
/// weights.
fn integers(tensors: &[(TensorSpec, Storage)]) -> Option<Value> {
    let of = |wanted: Storage| {
        let found = tensors.iter().filter(move |(_, storage)| *storage == wanted);
        found.map(|(spec, _)| spec.name.as_str()).collect::<Vec<_>>()
    };
    let [int8, int4] = [of(Storage::Int8), of(Storage::Int4)];
    (!int8.is_empty() || !int4.is_empty()).then(|| json!({ "int8": int8, "int4": int4 }))
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
