//! The size of slices from one run to the next.

use std::sync::{Arc, Mutex};

use super::model::file;
use super::{opened, ready};
use diffmoe::engine::{Engine, EngineError, Progress, RunConfig, SliceTime, Snapshot};
use diffmoe::scheduler::Instruction;

/// Notes the budget of every slice, and says as a device would that each took a millisecond for ten units.
struct Timed {
    inner: Box<dyn Engine>,
    budgets: Arc<Mutex<Vec<usize>>>,
    slices: usize,
    ms: f32,
}

impl Engine for Timed {
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
        self.budgets.lock().unwrap().push(budget);
        self.slices += 1;
        self.ms = budget as f32 / 10.0;
        // The rest of a slice is lost, so that steps consist of many.
        self.inner.advance(1)
    }
    fn slice_time(&self) -> Option<SliceTime> {
        let (slice, ms) = (self.slices, self.ms);
        (slice > 0).then_some(SliceTime { slice, ms, exact: true })
    }
    fn take_snapshot(&mut self) -> Option<Snapshot> {
        self.inner.take_snapshot()
    }
    fn wait(&mut self) -> Result<(), EngineError> {
        self.inner.wait()
    }
}

#[test]
fn a_run_begins_with_the_slices_that_the_last_one_found() {
    let (_folder, path) = file();
    let mut session = opened(path);
    let budgets = Arc::new(Mutex::new(Vec::new()));
    let seen = budgets.clone();
    session.wrap = Some(Arc::new(move |inner| {
        Ok(Box::new(Timed { inner, budgets: seen.clone(), slices: 0, ms: 0.0 }))
    }));
    let mut draw = |count, guidance| {
        session.controls.count = count;
        session.controls.sampling.guidance = guidance;
        session.generate();
        ready(&mut session);
        std::mem::take(&mut *budgets.lock().unwrap())
    };
    let first = draw(2, 1.5);
    assert_eq!(first[0], 1, "nothing is known yet");
    let found = *first.last().unwrap();
    assert!((40..=120).contains(&found), "slices of 4 to 12 ms: {first:?}");
    // The same engine, another one for more samples, and one for fewer.
    let again = draw(2, 1.5);
    assert_eq!(again[0], found);
    let more = draw(4, 1.5);
    assert_eq!(more[0], again.last().unwrap() / 2);
    let fewer = draw(1, 1.0);
    assert_eq!(fewer[0], *more.last().unwrap());
}
