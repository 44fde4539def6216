//! The interface of schedulers: the next step, observation of finished steps, and the state to resume from.

use super::program::{Instruction, Latent, Level, Observation};

/// The next action of a run.
#[derive(Clone, Debug, PartialEq)]
pub enum Next {
    /// The instructions of the next step.
    Step(Vec<Instruction>),
    /// The snapshots of earlier steps have to be [observed](Scheduler::observe) first.
    Wait,
    /// There are no more steps.
    Done,
    /// The run cannot continue, for this reason.
    Stalled(String),
}

/// A buffer of an engine and its contents, `[B, C, height, width]`.
pub type Buffer = (Latent, Vec<f32>);

/// What a scheduler needs, besides the sample, to continue after a finished step.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SchedulerState {
    /// Number of finished steps.
    pub steps: u32,
    /// Required contents of the engine's buffers: none for one-step methods, earlier predictions for multistep ones.
    pub buffers: Vec<Buffer>,
}

/// The way of one batch from noise to data.
///
/// Steps are submitted ahead of the device: [`Scheduler::next`] may be called before the snapshots of earlier steps
/// have arrived, and a scheduler that depends on them returns [`Next::Wait`].
pub trait Scheduler: Send {
    /// The next step, or why there is none.
    fn next(&mut self) -> Next;

    /// Observes the snapshot of a finished step; called for every step, in order.
    fn observe(&mut self, seen: Observation<'_>);

    /// The state after the last observed step. `None` if a run cannot be resumed.
    fn state(&self) -> Option<SchedulerState>;

    /// Continues after the finished steps of `state`. The engine's buffers hold what it lists.
    fn restore(&mut self, state: SchedulerState);

    /// The level that the sample has before the first step.
    fn start(&self) -> Level;

    /// Total number of steps; `None` if the scheduler is adaptive.
    fn step_count(&self) -> Option<u32>;

    /// How far the run is after `finished` steps, 0 to 1.
    fn fraction(&self, finished: u32) -> f32;
}

/// A scheduler whose number of steps is fixed; [`Fixed`] makes a [`Scheduler`] of it.
pub trait FixedSteps: Send {
    /// Step `index` of those that are taken, from 0, the noisiest.
    fn step(&self, index: u32) -> Vec<Instruction>;

    /// The level that the sample has before step `index`, and after the last one.
    fn level(&self, index: u32) -> Level;

    /// The buffers besides the sample that the step after `index` reads: a multistep method's history.
    fn carries(&self, index: u32) -> Vec<Latent> {
        let _ = index;
        Vec::new()
    }
}

/// Counts the steps of a [`FixedSteps`] and keeps the history that the device reports after each of them.
#[derive(Clone, Debug)]
pub struct Fixed<S> {
    steps: S,
    count: u32,
    /// Whether a part of an image is kept.
    keeps: bool,
    begun: u32,
    state: SchedulerState,
}

impl<S: FixedSteps> Fixed<S> {
    /// `count` steps.
    pub fn new(steps: S, count: u32) -> Self {
        Self { steps, count, keeps: false, begun: 0, state: SchedulerState::default() }
    }

    /// Whether every step ends with [`Instruction::Keep`].
    #[must_use]
    pub fn keeping(self, keeps: bool) -> Self {
        Self { keeps, ..self }
    }
}

impl<S: FixedSteps> Scheduler for Fixed<S> {
    fn next(&mut self) -> Next {
        if self.begun == self.count {
            return Next::Done;
        }
        let mut step = self.steps.step(self.begun);
        if self.keeps {
            step.push(Instruction::Keep(self.steps.level(self.begun + 1)));
        }
        step.extend(self.steps.carries(self.begun).into_iter().map(Instruction::Report));
        self.begun += 1;
        Next::Step(step)
    }

    fn observe(&mut self, seen: Observation<'_>) {
        let carried = self.steps.carries(self.state.steps).into_iter();
        self.state.buffers = carried.zip(seen.reports.iter().cloned()).collect();
        self.state.steps += 1;
    }

    fn state(&self) -> Option<SchedulerState> {
        Some(self.state.clone())
    }

    fn restore(&mut self, state: SchedulerState) {
        self.begun = state.steps;
        self.state = state;
    }

    fn start(&self) -> Level {
        self.steps.level(0)
    }

    fn step_count(&self) -> Option<u32> {
        Some(self.count)
    }

    fn fraction(&self, finished: u32) -> f32 {
        finished as f32 / self.count.max(1) as f32
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Objective, Prediction};
    use crate::scheduler::testing::{Machine, ddpm_model, flow_model};
    use crate::scheduler::{ALL, Branch, ScheduleConfig, SchedulerKind, StepNoise};

    fn wavy(z: f32, t: f32, branch: Branch) -> f32 {
        let shift = if branch == Branch::Conditional { 0.3 } else { -0.2 };
        (z + shift).sin() - 0.001 * t
    }

    /// After every number of finished steps, with a new machine that holds nothing but sample and buffers.
    #[test]
    fn a_run_resumes_exactly_after_any_step() {
        for (strength, keeps) in [(1.0, false), (0.7, false), (0.7, true)] {
            resumes_exactly(strength, keeps);
        }
    }

    fn resumes_exactly(strength: f32, keeps: bool) {
        const STEPS: u32 = 6;
        for info in ALL {
            for &objective in info.objectives {
                let config = match objective {
                    Objective::Flow => flow_model(Prediction::Velocity),
                    Objective::Ddpm => ddpm_model(),
                };
                let start = || {
                    let noise = StepNoise::Seeded { seed: 5, images: 0..1 };
                    let run = ScheduleConfig::new(STEPS, 1.5, noise);
                    let run = ScheduleConfig { strength, keeps, ..run };
                    SchedulerKind::new(info).schedule(&config, run)
                };
                let mut scheduler = start();
                let kept = [0.3, -0.9, 0.4];
                let mut machine = Machine::new(0.7, wavy).keeping(kept);
                let mut states = vec![(machine.latent(), scheduler.state())];
                while let Next::Step(step) = scheduler.next() {
                    scheduler.observe(machine.run(&step).as_seen());
                    states.push((machine.latent(), scheduler.state()));
                }
                let resumes = SchedulerKind::new(info).resumes();
                assert!(states.iter().all(|(_, state)| state.is_some() == resumes), "{info:?}");
                for (sample, state) in states {
                    let Some(state) = state else { continue };
                    let mut resumed = start();
                    let mut other = Machine::new(sample, wavy).keeping(kept);
                    other.put(&state.buffers);
                    let steps = state.steps;
                    resumed.restore(state.clone());
                    assert_eq!(resumed.state(), Some(state), "{} after {steps}", info.name);
                    while let Next::Step(step) = resumed.next() {
                        resumed.observe(other.run(&step).as_seen());
                    }
                    let (got, want) = (other.latent().to_bits(), machine.latent().to_bits());
                    assert_eq!(got, want, "{} after {steps} steps", info.name);
                }
            }
        }
    }

    /// A step may be requested before the snapshot of the previous one has arrived.
    #[test]
    fn the_state_is_that_of_the_last_observed_step() {
        let run = ScheduleConfig::new(3, 1.0, StepNoise::Seeded { seed: 0, images: 0..1 });
        let kind: SchedulerKind = "euler".parse().unwrap();
        let mut scheduler = kind.schedule(&flow_model(Prediction::Velocity), run);
        assert!(matches!(scheduler.next(), Next::Step(_)));
        assert!(matches!(scheduler.next(), Next::Step(_)));
        scheduler.observe(Observation { sample: &[1.0], reports: &[] });
        assert_eq!(scheduler.state(), Some(SchedulerState { steps: 1, buffers: Vec::new() }));
        assert_eq!(scheduler.step_count(), Some(3));
        for (steps, share) in [(0, 0.0), (1, 1.0 / 3.0), (3, 1.0)] {
            assert!((scheduler.fraction(steps) - share).abs() < 1e-6, "{steps}");
        }
        assert!(matches!(scheduler.next(), Next::Step(_)));
        assert_eq!(scheduler.next(), Next::Done);
    }
}
