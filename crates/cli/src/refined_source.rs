//! The source of a conversion with that of a refiner, as one.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;

use diffmoe::checkpoint::{CheckpointError, Source, StoredRows};
use diffmoe::model::{Config, REFINER, Storage, TensorSpec, refiner_document};
use serde_json::value::{RawValue, to_raw_value};
use serde_json::{Value, json};

use super::training_run::find_checkpoint;

/// The entries of a model's document. What is in them stays as it is written, so styles and labels keep their order.
pub(super) type Entries = BTreeMap<String, Box<RawValue>>;

/// A model file that becomes the refiner of another.
pub(super) struct RefinerSource {
    source: Source,
    config_text: String,
}

impl RefinerSource {
    pub(super) fn open(path: &Path, weights: &str) -> Result<Self, Box<dyn std::error::Error>> {
        let source = Source::open(&find_checkpoint(path)?, weights)?;
        let config_text = source.config_text().ok_or_else(|| {
            format!("{} has no configuration; convert it to a model file first", source.label())
        })?;
        let config = Config::from_json(&config_text)?;
        source.check(&config)?;
        if config.refiner.is_some() {
            return Err(format!("{} has a refiner of its own", source.label()).into());
        }
        Ok(Self { source, config_text })
    }

    /// The document of a model that is refined from a time on.
    pub(super) fn refine(
        &self,
        model: &str,
        from: f32,
    ) -> Result<String, Box<dyn std::error::Error>> {
        let document: Value = serde_json::from_str(model)?;
        let ours: Value = serde_json::from_str(&self.config_text)?;
        if !document["refiner"].is_null() {
            return Err("the model has a refiner already; remove --refiner".into());
        }
        let mut entries: Entries = serde_json::from_str(model)?;
        let (model, refiner) = (Config::from_json(model)?, Config::from_json(&self.config_text)?);
        let shared = |of: &Config| {
            let time = (of.objective, of.time_scale.to_bits());
            (of.labels.clone(), of.text.clone(), of.kind, time, of.pixels)
        };
        if shared(&model) != shared(&refiner) {
            return Err(format!(
                "{} cannot refine {}: both need the same kind, labels, text encoder, objective and time scale",
                self.source.label(),
                model.name
            )
            .into());
        }
        let mut section = json!({ "from": from });
        for (key, value) in ours.as_object().into_iter().flatten() {
            // Its card, as far as it is another one.
            let is_shared = ["name", "labels", "text", "defaults"].contains(&key.as_str());
            if !is_shared && (key == "params" || document[key] != *value) {
                section[key] = value.clone();
            }
        }
        entries.insert("refiner".into(), to_raw_value(&section)?);
        Ok(serde_json::to_string(&entries)?)
    }
}

/// Tensors of a model and of its refiner, by their names in one file.
pub(super) struct Sources {
    pub(super) model: Source,
    pub(super) refiner: Option<RefinerSource>,
    /// What the names of the tensors begin with in the model's source.
    pub(super) prefix: &'static str,
}

/// One of the two models of a file.
#[derive(Clone, Copy, PartialEq, clap::ValueEnum)]
pub(super) enum Part {
    /// Without the refiner.
    Model,
    /// The refiner as a model of its own.
    Refiner,
}

impl Part {
    /// The document of this part of a model.
    pub(super) fn document(self, text: &str) -> Result<String, Box<dyn std::error::Error>> {
        let mut entries: Entries = serde_json::from_str(text)?;
        if entries.remove("refiner").is_none() {
            return Err("the model has no refiner; remove --only".into());
        }
        match self {
            Self::Model => Ok(serde_json::to_string(&entries)?),
            Self::Refiner => Ok(refiner_document(text)?),
        }
    }
}

impl Sources {
    /// The source of a tensor, and its name there.
    fn of<'a>(&self, name: &'a str) -> (&Source, Cow<'a, str>) {
        match (&self.refiner, name.strip_prefix(REFINER)) {
            (Some(refiner), Some(name)) => (&refiner.source, name.into()),
            _ if self.prefix.is_empty() => (&self.model, name.into()),
            _ => (&self.model, format!("{}{name}", self.prefix).into()),
        }
    }

    /// As [`Source::kept_by`].
    pub(super) fn kept_by(&self, name: &str) -> Result<Storage, CheckpointError> {
        let (source, name) = self.of(name);
        source.kept_by(&name)
    }

    /// As [`Source::rows`].
    pub(super) fn rows(&self, spec: &TensorSpec) -> Result<StoredRows<'_>, CheckpointError> {
        let (source, name) = self.of(&spec.name);
        source.rows(&TensorSpec { name: name.into_owned(), ..spec.clone() })
    }

    /// Whether a tensor that a file may leave out is there.
    pub(super) fn has(&self, name: &str) -> bool {
        self.kept_by(name).is_ok()
    }
}
