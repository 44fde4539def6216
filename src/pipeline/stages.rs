//! What a device holds of a model: the model, and its refiner, if the file has one.

use std::sync::Arc;

use crate::checkpoint::Checkpoint;
use crate::engine::{
    CpuEngine, CpuModel, Engine, EngineError, GpuModel, RefinedEngine, WeightChoice, Workers,
    WorkersEngine, WorkersModel,
};
use crate::gpu::Gpu;
use crate::model::Config;

/// A model that the processor computes.
pub(super) enum Processor {
    /// On the threads of this program.
    Here(Arc<CpuModel>),
    /// In workers.
    There(Arc<WorkersModel>),
}

impl Processor {
    /// In workers where they are offered and take the model, else here.
    pub(super) async fn load(
        checkpoint: &Checkpoint,
        workers: Option<&Workers>,
    ) -> Result<Self, EngineError> {
        if let Some(workers) = workers
            && let Ok(model) = WorkersModel::open_async(checkpoint, workers).await
        {
            return Ok(Self::There(Arc::new(model)));
        }
        Ok(Self::Here(Arc::new(CpuModel::load_async(checkpoint).await?)))
    }

    /// The refiner of a model that is in the same place.
    async fn refiner(&self, checkpoint: &Checkpoint) -> Result<Self, EngineError> {
        Ok(match self {
            Self::Here(base) => {
                let model = CpuModel::load_with_async(checkpoint, base.math()).await?;
                Self::Here(Arc::new(model))
            }
            Self::There(base) => Self::There(Arc::new(base.refiner(checkpoint))),
        })
    }

    pub(super) fn engine(&self, batch: usize) -> Box<dyn Engine> {
        match self {
            Self::Here(model) => Box::new(CpuEngine::new(model.clone(), batch)),
            Self::There(model) => Box::new(WorkersEngine::new(model.clone(), batch)),
        }
    }

    pub(super) fn device(&self) -> String {
        match self {
            Self::Here(model) => model.device(),
            Self::There(model) => model.device(),
        }
    }

    pub(super) fn weight_bytes(&self) -> u64 {
        match self {
            Self::Here(model) => model.weight_bytes(),
            Self::There(model) => model.weight_bytes(),
        }
    }
}

/// A model and its refiner, if it has one, in one place.
pub(super) struct Stages<M> {
    pub(super) base: M,
    pub(super) refiner: Option<M>,
}

impl<M> Stages<M> {
    /// Loads the refiner of a model that is loaded.
    async fn load(
        base: M,
        checkpoint: &Checkpoint,
        load: impl AsyncFnOnce(&M, &Checkpoint) -> Result<M, EngineError>,
    ) -> Result<Self, EngineError> {
        let refiner = match checkpoint.refiner()? {
            Some(checkpoint) => Some(load(&base, &checkpoint).await?),
            None => None,
        };
        Ok(Self { base, refiner })
    }

    /// Their sum.
    pub(super) fn sum(&self, bytes: impl Fn(&M) -> u64) -> u64 {
        bytes(&self.base) + self.refiner.as_ref().map_or(0, bytes)
    }
}

/// An engine for the whole way from noise to data.
pub(super) fn joined(
    config: &Config,
    base: Box<dyn Engine>,
    refiner: Option<Box<dyn Engine>>,
) -> Box<dyn Engine> {
    match refiner {
        Some(refiner) => Box::new(RefinedEngine::new(base, refiner, config)),
        None => base,
    }
}

/// On the processor.
pub(super) type OnCpu = Stages<Processor>;
/// On a GPU.
pub(super) type OnGpu = Stages<Arc<GpuModel>>;

impl OnCpu {
    pub(super) async fn on_cpu(
        base: Processor,
        checkpoint: &Checkpoint,
    ) -> Result<Self, EngineError> {
        let load = async |base: &Processor, of: &Checkpoint| base.refiner(of).await;
        Self::load(base, checkpoint, load).await
    }
}

impl OnGpu {
    pub(super) async fn on_gpu(
        gpu: Arc<Gpu>,
        checkpoint: &Checkpoint,
        weights: WeightChoice,
    ) -> Result<Self, EngineError> {
        let load = async |of: &Checkpoint| {
            Ok::<_, EngineError>(Arc::new(GpuModel::load_async(gpu.clone(), of, weights).await?))
        };
        let base = load(checkpoint).await?;
        Self::load(base, checkpoint, async |_, of: &Checkpoint| load(of).await).await
    }
}
