//! Two models as one engine: a base for the first steps of a run, and its refiner for those near the data.
//!
//! A step belongs to the refiner when its first pass is at [`Refiner::from`] or later. Before the first of them the sample
//! and the buffers of the scheduler move over, as they do when a run resumes on another device, so schedulers and runs
//! need not know.

use std::collections::VecDeque;

use super::contract::{
    Engine, EngineError, ForwardRouting, GpuSamples, Progress, RunConfig, SliceTime, Snapshot,
};
use crate::model::{Config, Refiner};
use crate::scheduler::{Buffer, Instruction, Latent};

/// Who computes.
enum Turn {
    /// The base.
    Base,
    /// Nobody: the base is about to hand over before this step.
    HandingOver(Vec<Instruction>),
    /// The refiner.
    Refiner,
}

/// A base and its refiner, for a fixed batch size.
pub struct RefinedEngine {
    base: Box<dyn Engine>,
    refiner: Box<dyn Engine>,
    /// From when on the refiner computes.
    from: f32,
    /// Grids of the base and of the refiner.
    grids: [[usize; 2]; 2],
    turn: Turn,
    /// What the run was started with, without its sample.
    run: RunConfig,
    /// Steps that the base has begun.
    steps: u32,
    /// Snapshots of the base that nobody has taken.
    arrived: VecDeque<Snapshot>,
    /// Slices of the base when it handed over.
    slices: usize,
}

/// The buffers of a scheduler.
fn buffers() -> impl Iterator<Item = Latent> {
    (0..Latent::VELOCITIES as u8).map(Latent::Velocity)
}

impl RefinedEngine {
    /// An engine of two for batches of the same size.
    ///
    /// # Panics
    /// When `config` has no refiner, or the batches differ.
    pub fn new(base: Box<dyn Engine>, refiner: Box<dyn Engine>, config: &Config) -> Self {
        assert_eq!(base.batch(), refiner.batch(), "batches of one size");
        let Refiner { from, config: fine } =
            &**config.refiner.as_ref().expect("a configuration with a refiner");
        Self {
            base,
            refiner,
            from: *from,
            grids: [config.grid(), fine.grid()],
            turn: Turn::Base,
            run: RunConfig::default(),
            steps: 0,
            arrived: VecDeque::new(),
            slices: 0,
        }
    }

    /// Whether a step is for the refiner. Times of steps are multiples of a rounded quotient, so they are compared with some
    /// slack.
    fn is_refined(&self, ops: &[Instruction]) -> bool {
        let first = ops.iter().flat_map(Instruction::passes).next();
        first.is_some_and(|(time, _)| time >= self.from - 1e-5)
    }

    fn active(&self) -> &dyn Engine {
        match self.turn {
            Turn::Refiner => &*self.refiner,
            Turn::Base | Turn::HandingOver(_) => &*self.base,
        }
    }

    fn active_mut(&mut self) -> &mut dyn Engine {
        match self.turn {
            Turn::Refiner => &mut *self.refiner,
            Turn::Base | Turn::HandingOver(_) => &mut *self.base,
        }
    }

    /// Takes in the base's snapshots; once the one with its buffers is there, the refiner goes on.
    fn hand_over(&mut self) -> Result<(), EngineError> {
        while let Some(snapshot) = self.base.take_snapshot() {
            if snapshot.steps <= self.steps {
                self.arrived.push_back(snapshot);
                continue;
            }
            // The processor has no numbers for those that were never written.
            let is_used = |(_, values): &Buffer| !values.is_empty();
            let buffers = buffers().zip(snapshot.reports).filter(is_used).collect();
            self.slices = self.base.slice_time().map_or(0, |time| time.slice);
            self.refiner.start(&RunConfig {
                latent: snapshot.latent,
                buffers,
                ..self.run.clone()
            })?;
            if let Turn::HandingOver(ops) = std::mem::replace(&mut self.turn, Turn::Refiner) {
                self.refiner.begin_step(&ops)?;
            }
        }
        Ok(())
    }
}

/// The routing of a coarse pass on a finer grid: every token stands for all patches that it covers.
fn on_grid(forward: &mut ForwardRouting, coarse: [usize; 2], fine: [usize; 2]) {
    let scale = fine[0] / coarse[0];
    if scale == 1 {
        return;
    }
    forward.scale = scale as u32;
    let (tokens, patches) = (coarse[0] * coarse[1], fine[0] * fine[1]);
    // The token of each patch of an image.
    let token = |patch: usize| patch / fine[1] / scale * coarse[1] + patch % fine[1] / scale;
    for layer in &mut forward.layers {
        let images = layer.masks.len() / tokens;
        let pool = (0..images * patches).map(|at| at / patches * tokens + token(at % patches));
        let pool: Vec<usize> = pool.collect();
        layer.masks = pool.iter().map(|&token| layer.masks[token]).collect();
        if let Some(scores) = &mut layer.scores {
            for values in [&mut scores.gate, &mut scores.need] {
                let experts = values.len() / (images * tokens);
                let of = |&token: &usize| &values[token * experts..(token + 1) * experts];
                *values = pool.iter().flat_map(of).copied().collect();
            }
        }
    }
}

impl Engine for RefinedEngine {
    fn device(&self) -> String {
        self.base.device()
    }

    fn batch(&self) -> usize {
        self.base.batch()
    }

    fn start(&mut self, run: &RunConfig) -> Result<(), EngineError> {
        self.turn = Turn::Base;
        self.run = RunConfig { latent: Vec::new(), buffers: Vec::new(), ..run.clone() };
        self.steps = 0;
        self.arrived.clear();
        self.base.start(run)
    }

    fn begin_step(&mut self, ops: &[Instruction]) -> Result<(), EngineError> {
        match self.turn {
            Turn::Base if self.is_refined(ops) => {
                self.turn = Turn::HandingOver(ops.to_vec());
                self.base.begin_step(&buffers().map(Instruction::Report).collect::<Vec<_>>())
            }
            Turn::Base => {
                self.steps += 1;
                self.base.begin_step(ops)
            }
            Turn::HandingOver(_) => panic!("the step before is not finished"),
            Turn::Refiner => self.refiner.begin_step(ops),
        }
    }

    fn advance(&mut self, budget: usize) -> Result<Progress, EngineError> {
        if let Turn::HandingOver(_) = self.turn {
            let progress = self.base.advance(budget)?;
            self.hand_over()?;
            // Where the base is done, its snapshot is on the way.
            return Ok(match (&self.turn, progress) {
                (Turn::HandingOver(_), Progress::Done) => Progress::Busy,
                (Turn::Refiner, _) => Progress::Working,
                (_, progress) => progress,
            });
        }
        self.active_mut().advance(budget)
    }

    fn set_profiling(&mut self, on: bool) {
        self.base.set_profiling(on);
        self.refiner.set_profiling(on);
    }

    fn slice_time(&self) -> Option<SliceTime> {
        let time = self.active().slice_time()?;
        let before = if matches!(self.turn, Turn::Refiner) { self.slices } else { 0 };
        Some(SliceTime { slice: before + time.slice, ..time })
    }

    fn gpu_samples(&self) -> Option<GpuSamples<'_>> {
        self.active().gpu_samples()
    }

    fn take_snapshot(&mut self) -> Option<Snapshot> {
        let [coarse, fine] = self.grids;
        if let Turn::Base = self.turn
            && let Some(snapshot) = self.base.take_snapshot()
        {
            self.arrived.push_back(snapshot);
        }
        if let Some(mut snapshot) = self.arrived.pop_front() {
            snapshot.routing.iter_mut().for_each(|forward| on_grid(forward, coarse, fine));
            return Some(snapshot);
        }
        let Turn::Refiner = self.turn else { return None };
        let mut snapshot = self.refiner.take_snapshot()?;
        snapshot.steps += self.steps;
        snapshot.routing.iter_mut().for_each(|forward| forward.step += self.steps);
        Some(snapshot)
    }

    fn wait(&mut self) -> Result<(), EngineError> {
        self.active_mut().wait()
    }
}
