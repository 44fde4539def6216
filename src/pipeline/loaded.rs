//! A model loaded onto its device.

use std::sync::Arc;

use super::check::{Surroundings, System, fnv};
use super::place::{self, Load, Note, Place};
use super::stages::{OnCpu, OnGpu, Processor, joined};
use super::{Backend, LoadError, Run, Settings, SettingsError};
use crate::checkpoint::Checkpoint;
#[cfg(feature = "blocking")]
use crate::engine::{CpuEngine, Inspect};
use crate::engine::{
    CpuMath, CpuModel, Engine, EngineError, GpuEngine, WeightChoice, Workers, block_products,
    check_block,
};
use crate::gpu::Gpu;
use crate::kernels::probes::Kernels;
use crate::model::Config;

/// A model in errors.
const WHAT: &str = "this model";

/// Why a run could not be started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// A setting cannot work with this model.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// The device has no memory for the batch.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

/// A model on a device: starts runs, and makes engines for batches of any size. Copies share the weights.
#[derive(Clone)]
pub struct Pipeline {
    place: Place<OnCpu, OnGpu>,
    note: Option<Note>,
    config: Arc<Config>,
}

impl Pipeline {
    /// Loads a model on a device, with the weights in the precision that the file has them in; matrices that the file
    /// has in f32 become f16. The device may be the host's ([`Gpu::on`]).
    ///
    /// # Errors
    /// When a tensor cannot be read, or the device cannot hold the model.
    pub async fn load_async(gpu: &Arc<Gpu>, checkpoint: &Checkpoint) -> Result<Self, LoadError> {
        Self::load_with_async(gpu, checkpoint, WeightChoice::Auto).await
    }

    /// As [`Pipeline::load_async`], with a choice of the weights' precision.
    ///
    /// # Errors
    /// As [`Pipeline::load_async`].
    pub async fn load_with_async(
        gpu: &Arc<Gpu>,
        checkpoint: &Checkpoint,
        weights: impl Into<WeightChoice>,
    ) -> Result<Self, LoadError> {
        let weights = weights.into();
        let load = async |gpu| OnGpu::on_gpu(gpu, checkpoint, weights).await;
        let stages = place::load_on(gpu.clone(), WHAT, load).await?;
        Ok(Self::new(Place::Gpu(stages), None, checkpoint))
    }

    /// Loads a model for the processor. Large models keep their weights in the format of the file (feature `compact`) and
    /// widen them to f32 when they are used; small ones are f32 in memory.
    ///
    /// # Errors
    /// When a tensor cannot be read.
    pub async fn cpu_async(checkpoint: &Checkpoint) -> Result<Self, LoadError> {
        let stages = OnCpu::on_cpu(Processor::load(checkpoint, None).await?, checkpoint).await?;
        Ok(Self::new(Place::Cpu(Arc::new(stages)), None, checkpoint))
    }

    /// As [`Pipeline::cpu_async`], with products that may be less exact than f32. The device's description says so.
    ///
    /// # Errors
    /// When a tensor cannot be read, or this processor has no instructions for it.
    pub async fn cpu_with_async(checkpoint: &Checkpoint, math: CpuMath) -> Result<Self, LoadError> {
        let model = CpuModel::load_with_async(checkpoint, math).await?;
        let stages = OnCpu::on_cpu(Processor::Here(Arc::new(model)), checkpoint).await?;
        Ok(Self::new(Place::Cpu(Arc::new(stages)), None, checkpoint))
    }

    /// Loads a model on the given backend, on a device of its own. The first time that an adapter with its driver is
    /// used, its kernels and a block of the model are checked; [`Pipeline::note`] says what came of it.
    ///
    /// # Errors
    /// When a tensor cannot be read, the device cannot hold the model, or a GPU was requested and there is none that
    /// computes what it should.
    pub async fn open_async(
        checkpoint: &Checkpoint,
        backend: Backend,
        weights: impl Into<WeightChoice>,
    ) -> Result<Self, LoadError> {
        Self::open_with_async(checkpoint, backend, weights, None).await
    }

    /// As [`Pipeline::open_async`]; where the CPU computes, it does so in workers of the host, if these take the model.
    /// The samples are the same.
    ///
    /// # Errors
    /// As [`Pipeline::open_async`].
    pub async fn open_with_async(
        checkpoint: &Checkpoint,
        backend: Backend,
        weights: impl Into<WeightChoice>,
        workers: Option<&Workers>,
    ) -> Result<Self, LoadError> {
        let system = System { trusts: true };
        Box::pin(Self::open_in(&system, checkpoint, backend, weights.into(), workers)).await
    }

    pub(super) async fn open_in(
        around: &impl Surroundings,
        checkpoint: &Checkpoint,
        backend: Backend,
        weights: WeightChoice,
        workers: Option<&Workers>,
    ) -> Result<Self, LoadError> {
        let precisions = weights.resolve(checkpoint).list();
        let hash = fnv([checkpoint.config_text().as_bytes()]);
        let which = format!("block of {hash:016x} in {precisions:?}");
        let mut kernels = Kernels::of(checkpoint.config(), precisions.clone());
        if let Some(refiner) = checkpoint.refiner().map_err(EngineError::from)? {
            let precisions = weights.resolve(&refiner).list();
            kernels = kernels.and(Kernels::of(refiner.config(), precisions));
        }
        let load = Load {
            what: WHAT,
            kernels: &kernels,
            products: &block_products(checkpoint.config(), &precisions),
            on_cpu: async || {
                OnCpu::on_cpu(Processor::load(checkpoint, workers).await?, checkpoint).await
            },
            on_gpu: async |gpu: Arc<Gpu>| OnGpu::on_gpu(gpu, checkpoint, weights).await,
            check: Some((which, async |stages: Arc<OnGpu>| {
                check_block(&stages.base, checkpoint).await
            })),
        };
        let (place, note) = place::load(around, backend, load).await?;
        Ok(Self::new(place, note, checkpoint))
    }

    fn new(place: Place<OnCpu, OnGpu>, note: Option<Note>, checkpoint: &Checkpoint) -> Self {
        Self { place, note, config: Arc::new(checkpoint.config().clone()) }
    }

    /// Checks settings and starts a run with an engine of its own. Nothing is computed until [`Run::advance`].
    ///
    /// # Errors
    /// When a setting cannot work, or the device has no memory for such a batch.
    pub async fn start_async(&self, settings: Settings) -> Result<Run, StartError> {
        settings.check(&self.config)?;
        let engine = self.engine_async(settings.images()).await?;
        Ok(Run::start(engine, &self.config, settings, 0)?)
    }

    /// An engine for batches of `batch` images, to be used for one run after the other; engines share the weights.
    /// A refusal leaves the other engines of the model as they were.
    ///
    /// # Errors
    /// When the device has no memory for such a batch.
    pub async fn engine_async(&self, batch: usize) -> Result<Box<dyn Engine>, EngineError> {
        match &self.place {
            Place::Cpu(stages) => {
                let refiner = stages.refiner.as_ref().map(|model| model.engine(batch));
                Ok(joined(&self.config, stages.base.engine(batch), refiner))
            }
            Place::Gpu(stages) => {
                let base = Box::new(GpuEngine::fitting(stages.base.clone(), batch).await?);
                let refiner: Option<Box<dyn Engine>> = match &stages.refiner {
                    Some(model) => Some(Box::new(GpuEngine::fitting(model.clone(), batch).await?)),
                    None => None,
                };
                Ok(joined(&self.config, base, refiner))
            }
        }
    }

    /// The model's configuration.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Description of the device.
    pub fn device(&self) -> String {
        match &self.place {
            Place::Cpu(stages) => stages.base.device(),
            Place::Gpu(stages) => stages.base.device(),
        }
    }

    /// Bytes of the weights there.
    pub fn memory_bytes(&self) -> u64 {
        match &self.place {
            Place::Cpu(stages) => stages.sum(Processor::weight_bytes),
            Place::Gpu(stages) => stages.sum(|model| model.weight_bytes()),
        }
    }

    /// The device, unless the CPU decodes.
    pub fn gpu(&self) -> Option<&Arc<Gpu>> {
        match &self.place {
            Place::Cpu(_) => None,
            Place::Gpu(stages) => Some(&stages.base.gpu),
        }
    }

    /// Whether the processor computes.
    pub fn is_cpu(&self) -> bool {
        matches!(self.place, Place::Cpu(_))
    }

    /// Why the model is where it is, in a sentence, when the user did not choose the place.
    pub fn note(&self) -> Option<&str> {
        self.note.as_ref().map(|note| note.text.as_str())
    }

    /// Whether [`Pipeline::note`] says that the device computes wrong numbers, in at least one variant of the kernels.
    pub fn device_is_wrong(&self) -> bool {
        self.note.as_ref().is_some_and(|note| note.is_wrong)
    }
}

/// The same, waiting for the device: for command line tools and tests, not for user interfaces or browsers.
#[cfg(feature = "blocking")]
impl Pipeline {
    /// As [`Pipeline::load_async`].
    ///
    /// # Errors
    /// As [`Pipeline::load_async`].
    pub fn load(gpu: &Arc<Gpu>, checkpoint: &Checkpoint) -> Result<Self, LoadError> {
        pollster::block_on(Self::load_async(gpu, checkpoint))
    }

    /// As [`Pipeline::cpu_async`].
    ///
    /// # Errors
    /// As [`Pipeline::cpu_async`].
    pub fn cpu(checkpoint: &Checkpoint) -> Result<Self, LoadError> {
        pollster::block_on(Self::cpu_async(checkpoint))
    }

    /// As [`Pipeline::cpu_with_async`].
    ///
    /// # Errors
    /// As [`Pipeline::cpu_with_async`].
    pub fn cpu_with(checkpoint: &Checkpoint, math: CpuMath) -> Result<Self, LoadError> {
        pollster::block_on(Self::cpu_with_async(checkpoint, math))
    }

    /// As [`Pipeline::open_async`].
    ///
    /// # Errors
    /// As [`Pipeline::open_async`].
    pub fn open(
        checkpoint: &Checkpoint,
        backend: Backend,
        weights: impl Into<WeightChoice>,
    ) -> Result<Self, LoadError> {
        pollster::block_on(Self::open_async(checkpoint, backend, weights))
    }

    /// As [`Pipeline::start_async`].
    ///
    /// # Errors
    /// As [`Pipeline::start_async`].
    pub fn start(&self, settings: Settings) -> Result<Run, StartError> {
        pollster::block_on(self.start_async(settings))
    }

    /// As [`Pipeline::engine_async`].
    ///
    /// # Errors
    /// As [`Pipeline::engine_async`].
    pub fn engine(&self, batch: usize) -> Result<Box<dyn Engine>, EngineError> {
        pollster::block_on(self.engine_async(batch))
    }

    /// As [`Pipeline::engine_async`], for verification, and of the model alone where it has a refiner.
    ///
    /// # Errors
    /// As [`Pipeline::engine_async`], and when the model is in workers.
    pub fn engine_to_inspect(&self, batch: usize) -> Result<Box<dyn Inspect>, EngineError> {
        match &self.place {
            Place::Cpu(stages) => match &stages.base {
                Processor::Here(model) => Ok(Box::new(CpuEngine::new(model.clone(), batch))),
                Processor::There(_) => Err(EngineError::Unsupported(
                    "workers show no intermediate values; open the model without workers".into(),
                )),
            },
            Place::Gpu(stages) => {
                let model = stages.base.clone();
                Ok(Box::new(pollster::block_on(GpuEngine::fitting(model, batch))?))
            }
        }
    }
}
