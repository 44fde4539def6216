//! Choosing what computes.

use std::rc::Rc;

use crate::checkpoint::Checkpoint;
use crate::cpu::CpuEngine;
use crate::gpu::{Gpu, GpuError, GpuOptions, Profile};
use crate::model::{Engine, EngineError, GpuEngine, WeightPrecision};

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

/// An engine, and why it is this one.
pub struct Opened {
    /// The engine.
    pub engine: Box<dyn Engine>,
    /// A sentence for the user where the choice was not theirs.
    pub note: Option<String>,
}

/// Opens an engine for batches of `batch` pictures, waiting for the device. Not for user interfaces.
///
/// # Errors
/// When the model is unsupported or does not fit, or a GPU was asked for and there is none.
pub fn open_engine(
    checkpoint: &Checkpoint,
    backend: Backend,
    batch: usize,
    precision: WeightPrecision,
) -> Result<Opened, BackendError> {
    pollster::block_on(request_engine(checkpoint, backend, batch, precision))
}

/// As [`open_engine`], for callers that must not wait.
///
/// # Errors
/// As [`open_engine`].
pub async fn request_engine(
    checkpoint: &Checkpoint,
    backend: Backend,
    batch: usize,
    precision: WeightPrecision,
) -> Result<Opened, BackendError> {
    let on_cpu = |note: Option<String>| -> Result<Opened, BackendError> {
        Ok(Opened { engine: Box::new(CpuEngine::new(checkpoint, batch)?), note })
    };
    if backend == Backend::Cpu {
        return on_cpu(None);
    }
    let gpu = match Gpu::request(GpuOptions::default()).await {
        Ok(gpu) if backend == Backend::Auto && gpu.profile == Profile::Software => {
            return on_cpu(Some(format!(
                "the only graphics adapter is {}, which computes on the CPU, slower than the CPU backend: using that",
                gpu.info.name
            )));
        }
        Ok(gpu) => gpu,
        Err(error) if backend == Backend::Auto => {
            return on_cpu(Some(format!("{error}: using the CPU")));
        }
        Err(error) => return Err(error.into()),
    };
    match GpuEngine::new(Rc::new(gpu), checkpoint, batch, precision) {
        Ok(engine) => Ok(Opened { engine: Box::new(engine), note: None }),
        Err(error) if backend == Backend::Auto => on_cpu(Some(format!("{error}: using the CPU"))),
        Err(error) => Err(error.into()),
    }
}
