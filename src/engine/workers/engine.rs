//! An engine whose images are computed in workers.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use web_time::Instant;

use super::messages::Request;
use super::model::WorkersModel;
use super::parts;
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
    /// The images of each worker in this run.
    shares: Vec<Range<usize>>,
    /// A step that is not sent yet.
    begun: Option<Vec<Instruction>>,
    /// When each step in flight was sent.
    in_flight: VecDeque<Instant>,
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
            let step = self.finished.iter_mut().filter_map(VecDeque::pop_front).collect();
            let (Some(sent), Some(snapshot)) = (self.in_flight.pop_front(), parts::join(step))
            else {
                return;
            };
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
        self.finished = vec![VecDeque::new(); self.shares.len()];
        for (worker, part) in self.shares.iter().enumerate() {
            self.model.send(
                worker,
                &Request::Start {
                    engine: self.id,
                    run: self.run,
                    batch: part.len(),
                    config: Box::new(parts::run(run, self.batch, part)),
                },
            );
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
            for (worker, part) in self.shares.iter().enumerate() {
                let ops = parts::step(&ops, self.batch, part);
                self.model.send(worker, &Request::Step { engine: self.id, ops });
            }
            self.in_flight.push_back(Instant::now());
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
