//! The choice of the device that computes, for models and for image decoders.

use std::sync::Arc;

use super::check::{self as checks, Surroundings};
use crate::engine::EngineError;
use crate::gpu::{Gpu, GpuError};
use crate::kernels::probes::{Finding, Kernels};
use crate::kernels::tiles::Product;
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

/// Why something is where it is, when the user did not choose the place.
#[derive(Clone, Debug)]
pub(super) struct Note {
    /// In a sentence.
    pub(super) text: String,
    /// Whether the device computes wrong numbers, which users should hear of.
    pub(super) is_wrong: bool,
}

/// What is to be loaded.
pub(super) struct Load<'a, OnCpu, OnGpu, Check> {
    /// Named in errors, as in "this model".
    pub(super) what: &'static str,
    /// The kernels that it needs.
    pub(super) kernels: &'a Kernels,
    /// The products that take most of its time, by which the device's tiles are chosen.
    pub(super) products: &'a [Product],
    pub(super) on_cpu: OnCpu,
    pub(super) on_gpu: OnGpu,
    /// Compares a part of it with the processor; and what tells it from others.
    pub(super) check: Option<(String, Check)>,
}

/// Loads something on the requested device, with a note if another one was chosen.
///
/// A device that computes wrong numbers gets the other kernels; if these are wrong, too, the processor computes.
///
/// # Errors
/// When it cannot be loaded there, or a GPU was requested and there is none that computes what it should.
pub(super) async fn load<C, G, OnCpu, OnGpu, Check>(
    around: &impl Surroundings,
    backend: Backend,
    load: Load<'_, OnCpu, OnGpu, Check>,
) -> Result<(Place<C, G>, Option<Note>), LoadError>
where
    OnCpu: AsyncFnOnce() -> Result<C, EngineError>,
    OnGpu: AsyncFn(Arc<Gpu>) -> Result<G, EngineError>,
    Check: AsyncFn(Arc<G>) -> Result<Finding, EngineError>,
{
    let reason = match backend {
        Backend::Cpu => None,
        Backend::Auto | Backend::Gpu => {
            let auto = backend == Backend::Auto;
            let refused: LoadError = match around.device().await {
                Ok(gpu) if auto && gpu.is_software() => {
                    let loaded = (load.on_cpu)().await?;
                    let note = Note { text: slow(&gpu), is_wrong: false };
                    return Ok((Place::Cpu(Arc::new(loaded)), Some(note)));
                }
                Ok(gpu) => match load_checked(around, gpu, &load).await {
                    Ok((loaded, note)) => return Ok((Place::Gpu(loaded), note)),
                    Err(error) => error,
                },
                Err(error) => error.into(),
            };
            if !auto {
                return Err(refused);
            }
            let is_wrong = matches!(refused, LoadError::Gpu(GpuError::Wrong(_)));
            let report = if is_wrong { REPORT } else { "" };
            Some(Note { text: format!("{refused}: using the CPU{report}"), is_wrong })
        }
    };
    Ok((Place::Cpu(Arc::new((load.on_cpu)().await?)), reason))
}

/// How to get a report.
const REPORT: &str =
    ". `diffmoe doctor`, or Help → Check this device in the app, makes a report to send";

fn slow(gpu: &Gpu) -> String {
    let name = &gpu.info.name;
    format!(
        "the only graphics adapter, {name}, is software and slower than the CPU backend: using the CPU"
    )
}

/// Loads something with the kernels that compute what they should: the suitable ones, or the others.
async fn load_checked<G, OnCpu, OnGpu, Check>(
    around: &impl Surroundings,
    mut gpu: Gpu,
    load: &Load<'_, OnCpu, OnGpu, Check>,
) -> Result<(Arc<G>, Option<Note>), LoadError>
where
    OnGpu: AsyncFn(Arc<Gpu>) -> Result<G, EngineError>,
    Check: AsyncFn(Arc<G>) -> Result<Finding, EngineError>,
{
    let name = gpu.info.name.clone();
    let mut wrong = None;
    for profile in gpu.profile.to_try() {
        if gpu.failure().is_some() {
            gpu = around.device().await?;
        }
        let tried = Arc::new(gpu.with_profile(profile));
        if let Some(reason) = checks::kernels(around, &tried, load.kernels).await? {
            wrong.get_or_insert(reason);
            continue;
        }
        let tiling = Box::pin(checks::tiling(around, &tried, load.products)).await?;
        let tried = Arc::new(tried.with_tiling(tiling));
        let loaded = load_on(tried.clone(), load.what, &load.on_gpu).await?;
        if let Some((which, check)) = &load.check {
            let check = async || check(loaded.clone()).await;
            if let Some(reason) = checks::part(around, &tried, which, check).await? {
                wrong.get_or_insert(reason);
                continue;
            }
        }
        let note = wrong.map(|reason| {
            let text = format!(
                "{name} computes wrong numbers with its usual kernels ({reason}): using others, which are slower{REPORT}"
            );
            Note { text, is_wrong: true }
        });
        return Ok((loaded, note));
    }
    let reason = wrong.unwrap_or_default();
    Err(GpuError::Wrong(format!("{name} computes wrong numbers ({reason})")).into())
}

/// Loads something on a device that is there, and leaves the device as it was when it does not fit.
pub(super) async fn load_on<G>(
    gpu: Arc<Gpu>,
    what: &str,
    on_gpu: impl AsyncFnOnce(Arc<Gpu>) -> Result<G, EngineError>,
) -> Result<Arc<G>, EngineError> {
    match gpu.error_scope(on_gpu(gpu.clone())).await {
        Ok(loaded) => Ok(Arc::new(loaded?)),
        Err(error) => {
            let name = &gpu.info.name;
            Err(EngineError::TooLarge(format!("{name} cannot hold {what}: {error}")))
        }
    }
}
