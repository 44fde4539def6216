//! The choice of the device that computes, for models and for image decoders.

use std::sync::Arc;

use crate::engine::EngineError;
use crate::gpu::{Gpu, GpuError, GpuOptions};
use crate::model::choices;

choices! {
    /// The device.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
    pub enum Backend: "backend" {
        #[default]
        Auto = ("auto", "Automatic", "A hardware GPU if there is one, else the CPU."),
        Gpu = ("gpu", "GPU", "Any wgpu adapter, including software adapters such as lavapipe."),
        Cpu = ("cpu", "CPU", "The CPU."),
    }
}

/// Why a model or an image decoder could not be loaded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// No adapter, or not a usable one.
    #[error(transparent)]
    Gpu(#[from] GpuError),
    /// The device cannot hold it, the kind is not supported, or a tensor cannot be read.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

/// Where something was loaded: one type for what the processor holds, one for what a GPU holds.
pub(super) enum Place<C, G> {
    Cpu(Arc<C>),
    Gpu(Arc<G>),
}

impl<C, G> Clone for Place<C, G> {
    fn clone(&self) -> Self {
        match self {
            Self::Cpu(loaded) => Self::Cpu(loaded.clone()),
            Self::Gpu(loaded) => Self::Gpu(loaded.clone()),
        }
    }
}

/// Loads something on the requested device, with a note if another one was chosen. `what` is named in
/// errors, as in "this model".
///
/// # Errors
/// When it cannot be loaded there, or a GPU was requested and there is none.
pub(super) async fn load<C, G>(
    backend: Backend,
    what: &str,
    on_cpu: impl AsyncFnOnce() -> Result<C, EngineError>,
    on_gpu: impl AsyncFnOnce(Arc<Gpu>) -> Result<G, EngineError>,
) -> Result<(Place<C, G>, Option<String>), LoadError> {
    let reason = match backend {
        Backend::Cpu => None,
        Backend::Auto | Backend::Gpu => {
            let auto = backend == Backend::Auto;
            let refused: LoadError = match Gpu::headless_async(GpuOptions::default()).await {
                Ok(gpu) if auto && gpu.is_software() => {
                    return Ok((Place::Cpu(Arc::new(on_cpu().await?)), Some(slow(&gpu))));
                }
                Ok(gpu) => match load_on(Arc::new(gpu), what, on_gpu).await {
                    Ok(loaded) => return Ok((loaded, None)),
                    Err(error) => error.into(),
                },
                Err(error) => error.into(),
            };
            if !auto {
                return Err(refused);
            }
            Some(format!("{refused}: using the CPU"))
        }
    };
    Ok((Place::Cpu(Arc::new(on_cpu().await?)), reason))
}

fn slow(gpu: &Gpu) -> String {
    let name = &gpu.info.name;
    format!(
        "the only graphics adapter, {name}, is software and slower than the CPU backend: using the CPU"
    )
}

/// Loads something on a device that is there, and leaves the device as it was when it does not fit.
pub(super) async fn load_on<C, G>(
    gpu: Arc<Gpu>,
    what: &str,
    on_gpu: impl AsyncFnOnce(Arc<Gpu>) -> Result<G, EngineError>,
) -> Result<Place<C, G>, EngineError> {
    match gpu.error_scope(on_gpu(gpu.clone())).await {
        Ok(loaded) => Ok(Place::Gpu(Arc::new(loaded?))),
        Err(error) => {
            let name = &gpu.info.name;
            Err(EngineError::TooLarge(format!("{name} cannot hold {what}: {error}")))
        }
    }
}
