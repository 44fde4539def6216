//! Engines that a test looks into or breaks.

use diffmoe::engine::{Engine, EngineError, GpuSamples, Progress, RunConfig, SliceTime, Snapshot};
use diffmoe::scheduler::Instruction;

/// What a test adds to an engine.
pub(super) trait Hooks: Send {
    /// Called before each slice of work; an error is what the slice returns.
    fn before_slice(&mut self, budget: usize) -> Result<(), EngineError>;

    /// Time of the last slice, for an engine that does not measure any.
    fn slice_time(&self) -> Option<SliceTime> {
        None
    }
}

/// An engine with hooks. It works one unit per slice, so that steps consist of many.
pub(super) struct Hooked<H> {
    pub(super) inner: Box<dyn Engine>,
    pub(super) hooks: H,
}

impl<H: Hooks> Engine for Hooked<H> {
    fn device(&self) -> String {
        self.inner.device()
    }
    fn batch(&self) -> usize {
        self.inner.batch()
    }
    fn start(&mut self, run: &RunConfig) -> Result<(), EngineError> {
        self.inner.start(run)
    }
    fn begin_step(&mut self, ops: &[Instruction]) -> Result<(), EngineError> {
        self.inner.begin_step(ops)
    }
    fn advance(&mut self, budget: usize) -> Result<Progress, EngineError> {
        self.hooks.before_slice(budget)?;
        self.inner.advance(1)
    }
    fn set_profiling(&mut self, on: bool) {
        self.inner.set_profiling(on);
    }
    fn slice_time(&self) -> Option<SliceTime> {
        self.hooks.slice_time().or_else(|| self.inner.slice_time())
    }
    fn gpu_samples(&self) -> Option<GpuSamples<'_>> {
        self.inner.gpu_samples()
    }
    fn take_snapshot(&mut self) -> Option<Snapshot> {
        self.inner.take_snapshot()
    }
    fn wait(&mut self) -> Result<(), EngineError> {
        self.inner.wait()
    }
}
