//! An engine whose images are computed in workers.

use std::collections::VecDeque;
use std::sync::Arc;

use web_time::Instant;

use super::messages::Request;
use super::model::{Share, WorkersModel};
use super::parts;
use super::twins::{self, Part, without_joint};
use crate::engine::{Engine, EngineError, Progress, RunConfig, SliceTime, Snapshot};
use crate::scheduler::Instruction;

/// Steps that workers are given before the first of them is finished: the next one is there when a worker asks for it.
const AHEAD: usize = 2;

/// A model in workers, for a fixed batch size.
pub struct WorkersEngine {
    model: Arc<WorkersModel>,
    id: u32,
    batch: usize,
    run: u32,
    /// What each worker has to do in this run.
    shares: Vec<Share>,
    /// Whether a joint pass is the same as two passes.
    splits_joint: bool,
    /// A step that is not sent yet.
    begun: Option<Vec<Instruction>>,
    /// When each step in flight was sent, and which twin has the routing of each of its passes.
    in_flight: VecDeque<(Instant, Vec<Option<usize>>)>,
    /// Finished parts of the oldest step in flight, by worker.
    finished: Vec<VecDeque<Snapshot>>,
    snapshots: VecDeque<Snapshot>,
    /// Steps so far, and the time of the last one.
    time: Option<SliceTime>,
    last_end: Option<Instant>,
}

impl WorkersEngine {
    /// An engine for batches of `batch` images.
    ///
    /// # Panics
    /// When the batch is empty.
    pub fn new(model: Arc<WorkersModel>, batch: usize) -> Self {
        assert!(batch > 0, "a batch needs at least one sample");
        Self {
            id: model.register(),
            model,
            batch,
            run: 0,
            shares: Vec::new(),
            splits_joint: false,
            begun: None,
            in_flight: VecDeque::new(),
            finished: Vec::new(),
            snapshots: VecDeque::new(),
            time: None,
            last_end: None,
        }
    }

    /// Takes in what the workers have sent.
    fn listen(&mut self) -> Result<(), EngineError> {
        for worker in 0..self.shares.len() {
            let alive = self.model.listen(worker);
            while let Some((output, values)) = self.model.take_output(worker, self.id, self.run) {
                let (engine, run) = (self.id, self.run);
                // Twins stand side by side.
                self.model.send(worker ^ 1, &Request::Output { engine, run, output, values });
            }
            while let Some(snapshot) = self.model.take(worker, self.id, self.run) {
                self.finished[worker].push_back(snapshot);
            }
            self.join();
            alive?;
        }
        Ok(())
    }

    /// Joins steps that all workers have finished.
    fn join(&mut self) {
        while self.finished.iter().all(|parts| !parts.is_empty()) {
            let mut arrived = self.finished.iter_mut().filter_map(VecDeque::pop_front);
            let Some((sent, owners)) = self.in_flight.pop_front() else { return };
            let mut step = Vec::new();
            for share in &self.shares {
                match (share.twin, arrived.next(), step.pop()) {
                    (Some(1), Some(second), Some(first)) => {
                        step.push(twins::join(first, second, &owners));
                    }
                    (_, part, before) => step.extend(before.into_iter().chain(part)),
                }
            }
            let Some(snapshot) = parts::join(step) else { return };
            self.snapshots.push_back(snapshot);
            let now = Instant::now();
            let begin = self.last_end.map_or(sent, |end| end.max(sent));
            let ms = now.duration_since(begin).as_secs_f32() * 1e3;
            let slice = self.time.map_or(1, |time| time.slice + 1);
            self.time = Some(SliceTime { slice, ms, exact: true });
            self.last_end = Some(now);
        }
    }
}

impl Engine for WorkersEngine {
    fn device(&self) -> String {
        self.model.device()
    }

    fn batch(&self) -> usize {
        self.batch
    }

    fn start(&mut self, run: &RunConfig) -> Result<(), EngineError> {
        self.run += 1;
        self.begun = None;
        self.in_flight.clear();
        self.snapshots.clear();
        let before = self.shares.len();
        self.shares = self.model.share(self.batch, &run.routing);
        self.splits_joint = !self.model.compete(self.batch, &run.routing);
        self.finished = vec![VecDeque::new(); self.shares.len()];
        for (worker, Share { images, .. }) in self.shares.iter().enumerate() {
            let config = Box::new(parts::run(run, self.batch, images));
            let (engine, run, batch) = (self.id, self.run, images.len());
            let is_refiner = self.model.is_refiner;
            self.model.send(worker, &Request::Start { engine, run, batch, is_refiner, config });
        }
        // What others still compute for the run before is of no use.
        for worker in self.shares.len()..before {
            self.model.send(worker, &Request::Free { engine: self.id });
        }
        Ok(())
    }

    fn begin_step(&mut self, ops: &[Instruction]) -> Result<(), EngineError> {
        assert!(self.begun.is_none(), "the step before is not submitted");
        self.begun = Some(ops.to_vec());
        Ok(())
    }

    /// Submits a step as a whole, whatever the budget.
    fn advance(&mut self, _budget: usize) -> Result<Progress, EngineError> {
        self.listen()?;
        if self.begun.is_some() && self.in_flight.len() >= AHEAD {
            return Ok(Progress::Busy);
        }
        if let Some(ops) = self.begun.take() {
            let are_twins = self.shares.iter().any(|share| share.twin.is_some());
            let ops = if are_twins && self.splits_joint { without_joint(&ops) } else { ops };
            for (worker, Share { images, twin }) in self.shares.iter().enumerate() {
                let ops = parts::step(&ops, self.batch, images);
                let parts = match twin {
                    None => vec![Part::Do(ops)],
                    Some(which) => twins::parts(&ops, *which),
                };
                self.model.send(worker, &Request::Step { engine: self.id, parts });
            }
            self.in_flight.push_back((Instant::now(), twins::owners(&ops)));
        }
        Ok(Progress::Done)
    }

    fn slice_time(&self) -> Option<SliceTime> {
        self.time
    }

    fn take_snapshot(&mut self) -> Option<Snapshot> {
        // A worker that is gone is reported by the next `advance`.
        let _ = self.listen();
        self.snapshots.pop_front()
    }

    fn wait(&mut self) -> Result<(), EngineError> {
        loop {
            self.listen()?;
            let late = self.finished.iter().position(VecDeque::is_empty);
            match late.filter(|_| !self.in_flight.is_empty()) {
                Some(worker) if self.model.wait(worker) => {}
                _ => return Ok(()),
            }
        }
    }
}

impl Drop for WorkersEngine {
    fn drop(&mut self) {
        self.model.free(self.id);
    }
}
