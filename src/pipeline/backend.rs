//! Choosing what computes.

use std::sync::Arc;

use crate::checkpoint::Checkpoint;
use crate::engine::{CpuEngine, CpuModel};
use crate::engine::{Engine, EngineError, GpuEngine, GpuModel, Inspect, WeightChoice};
use crate::gpu::{Gpu, GpuError, GpuOptions};

/// Which processor a user wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Backend {
    /// A graphics processor if there is a real one, else the processor.
    #[default]
    Auto,
    /// Any wgpu adapter, software adapters included.
    Gpu,
    /// The processor.
    Cpu,
}

/// Why no engine could be opened.
#[derive(Debug, thiserror::Error)]
pub enum BackendError {
    /// No adapter, or not a usable one.
    #[error(transparent)]
    Gpu(#[from] GpuError),
    /// The model does not run there.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

/// Where something is to run.
#[allow(clippy::large_enum_variant, reason = "there is one, for a moment")]
pub(super) enum Choice {
    /// On this device.
    Gpu(Gpu),
    /// On the processor.
    Cpu {
        /// Why, where the user did not ask for it.
        note: Option<String>,
    },
}

/// Carries out a user's wish.
///
/// # Errors
/// When a GPU was asked for and there is none.
pub(super) async fn choose(backend: Backend) -> Result<Choice, GpuError> {
    if backend == Backend::Cpu {
        return Ok(Choice::Cpu { note: None });
    }
    let auto = backend == Backend::Auto;
    match Gpu::request(GpuOptions::default()).await {
        Ok(gpu) if auto && gpu.is_software() => {
            let name = &gpu.info.name;
            let reason = format!(
                "the only graphics adapter, {name}, is software and slower than the CPU backend"
            );
            Ok(Choice::Cpu { note: Some(instead(&reason)) })
        }
        Ok(gpu) => Ok(Choice::Gpu(gpu)),
        Err(error) if auto => Ok(Choice::Cpu { note: Some(instead(&error)) }),
        Err(error) => Err(error),
    }
}

/// The sentence for a place that nobody asked for.
pub(super) fn instead(reason: &dyn std::fmt::Display) -> String {
    format!("{reason}: using the CPU")
}

/// A model on the device that was chosen for it; makes engines for any batch size. Copies share the weights.
#[derive(Clone)]
pub struct OpenModel {
    place: Place,
    note: Option<String>,
}

#[derive(Clone)]
enum Place {
    Cpu(Arc<CpuModel>),
    Gpu(Arc<GpuModel>),
}

impl OpenModel {
    /// Opens a model, waiting for the device. Not for user interfaces.
    ///
    /// # Errors
    /// When the model is unsupported or does not fit, or a GPU was asked for and there is none.
    pub fn open(
        checkpoint: &Checkpoint,
        backend: Backend,
        weights: impl Into<WeightChoice>,
    ) -> Result<Self, BackendError> {
        pollster::block_on(Self::request(checkpoint, backend, weights))
    }

    /// As [`OpenModel::open`], for callers that must not wait.
    ///
    /// # Errors
    /// As [`OpenModel::open`].
    pub async fn request(
        checkpoint: &Checkpoint,
        backend: Backend,
        weights: impl Into<WeightChoice>,
    ) -> Result<Self, BackendError> {
        let on_cpu = async |note: Option<String>| -> Result<Self, BackendError> {
            Ok(Self { place: Place::Cpu(Arc::new(CpuModel::request(checkpoint).await?)), note })
        };
        let gpu = match choose(backend).await? {
            Choice::Cpu { note } => return on_cpu(note).await,
            Choice::Gpu(gpu) => Arc::new(gpu),
        };
        let load = GpuModel::request(gpu.clone(), checkpoint, weights);
        let loaded = match gpu.error_scope(load).await {
            Ok(loaded) => loaded,
            Err(error) => Err(EngineError::TooLarge(format!(
                "{} cannot hold this model: {error}",
                gpu.info.name
            ))),
        };
        match loaded {
            Ok(model) => Ok(Self { place: Place::Gpu(Arc::new(model)), note: None }),
            Err(error) if backend == Backend::Auto => on_cpu(Some(instead(&error))).await,
            Err(error) => Err(error.into()),
        }
    }

    /// An engine for batches of `batch` pictures; engines share the weights.
    ///
    /// # Errors
    /// When the device has no room for such a batch.
    pub fn engine(&self, batch: usize) -> Result<Box<dyn Engine>, EngineError> {
        pollster::block_on(self.request_engine(batch))
    }

    /// As [`OpenModel::engine`], for callers that must not wait. A refusal leaves the other engines of the model
    /// as they were.
    ///
    /// # Errors
    /// As [`OpenModel::engine`].
    pub async fn request_engine(&self, batch: usize) -> Result<Box<dyn Engine>, EngineError> {
        Ok(self.make_engine(batch).await?)
    }

    /// As [`OpenModel::engine`], for verification.
    ///
    /// # Errors
    /// As [`OpenModel::engine`].
    pub fn engine_to_inspect(&self, batch: usize) -> Result<Box<dyn Inspect>, EngineError> {
        pollster::block_on(self.make_engine(batch))
    }

    async fn make_engine(&self, batch: usize) -> Result<Box<dyn Inspect>, EngineError> {
        match &self.place {
            Place::Cpu(model) => Ok(Box::new(CpuEngine::new(model.clone(), batch))),
            Place::Gpu(model) => {
                let make = async { GpuEngine::new(model.clone(), batch) };
                match model.gpu.error_scope(make).await {
                    Ok(engine) => Ok(Box::new(engine?)),
                    Err(error) => Err(EngineError::TooLarge(format!(
                        "{batch} pictures at once do not fit: {error}; draw fewer pictures at once"
                    ))),
                }
            }
        }
    }

    /// What computes, for people.
    pub fn device(&self) -> String {
        match &self.place {
            Place::Cpu(model) => model.device(),
            Place::Gpu(model) => model.device(),
        }
    }

    /// Bytes of the weights there.
    pub fn memory_bytes(&self) -> u64 {
        match &self.place {
            Place::Cpu(model) => model.weight_bytes(),
            Place::Gpu(model) => model.weight_bytes(),
        }
    }

    /// The device, where it is not the processor.
    pub fn gpu(&self) -> Option<&Arc<Gpu>> {
        match &self.place {
            Place::Cpu(_) => None,
            Place::Gpu(model) => Some(&model.gpu),
        }
    }

    /// Whether the processor computes.
    pub fn is_cpu(&self) -> bool {
        matches!(self.place, Place::Cpu(_))
    }

    /// Why the model is where it is, in a sentence, when the user did not choose the place.
    pub fn note(&self) -> Option<&str> {
        self.note.as_deref()
    }
}
