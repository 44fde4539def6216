//! The steps of a run, one list of operations after the other, whatever the solver.

use std::ops::Range;
use std::sync::Arc;

use super::ddpm::{Descent, Process};
use super::dopri5::Dopri5;
use super::flow::{Rule, fixed_step};
use super::noise::step_noise;
use super::program::{Instruction, Observation};
use super::solver::Solver;
use crate::model::Config;

/// What a plan has to say.
#[derive(Clone, Debug, PartialEq)]
pub enum Next {
    /// These operations are next.
    Step(Vec<Instruction>),
    /// The snapshots of the steps before have to be [observed](Plan::observe) first.
    Wait,
    /// All steps were given out.
    Done,
    /// There is no way on, for this reason.
    Stalled(String),
}

/// What a plan is made from; the settings were checked.
#[derive(Clone, Debug)]
pub struct Request {
    /// Solver; it has to suit the model.
    pub solver: Solver,
    /// Steps, for solvers that do not choose them by themselves.
    pub steps: u32,
    /// Guidance scale; 1 is none.
    pub guidance: f32,
    /// Seed of the noise that is added on the way.
    pub seed: u64,
    /// Which pictures of the run the batch holds: each has noise of its own.
    pub pictures: Range<u64>,
}

/// The way of one batch from noise to data.
#[derive(Clone, Debug)]
pub struct Plan {
    request: Request,
    sample_len: usize,
    route: Route,
    /// Steps given out.
    given: u32,
    /// Noise to use instead of the seed's, one entry for each step.
    recorded: Vec<Arc<Vec<f32>>>,
}

#[derive(Clone, Debug)]
enum Route {
    /// Euler or Heun.
    Fixed(Rule),
    Adaptive(Dopri5),
    Descent(Descent),
}

impl Plan {
    /// A plan for a model.
    ///
    /// # Panics
    /// When a diffusion solver is to take no step or more than 1000.
    pub fn new(config: &Config, request: Request) -> Self {
        let descent = |implicit, ancestry| {
            Route::Descent(Descent {
                process: Process::respaced(request.steps),
                implicit,
                ancestry,
                guidance: request.guidance,
                channels: config.in_channels,
                learned: config.out_channels > config.in_channels,
            })
        };
        let rule = Rule { guidance: request.guidance, prediction: config.prediction };
        let route = match request.solver {
            Solver::Euler | Solver::Heun => Route::Fixed(rule),
            Solver::Dopri5(tolerance) => Route::Adaptive(Dopri5::new(tolerance, rule)),
            Solver::Ddpm(ancestry) => descent(false, ancestry),
            Solver::Ddim(ancestry) => descent(true, ancestry),
        };
        let sample_len = config.sample_len();
        Self { request, sample_len, route, given: 0, recorded: Vec::new() }
    }

    /// The plan for what is left after `steps` finished steps.
    ///
    /// # Panics
    /// When an adaptive solver has finished steps: where it goes on depends on more than their number.
    #[must_use]
    pub fn after(self, steps: u32) -> Self {
        assert!(steps == 0 || !self.request.solver.is_adaptive(), "an adaptive solver begins anew");
        Self { given: steps, ..self }
    }

    /// Replaces the seed's noise by recorded numbers, `[B, C, h, w]` for each step: to repeat a run of
    /// another program.
    #[must_use]
    pub fn with_noise(self, recorded: Vec<Arc<Vec<f32>>>) -> Self {
        Self { recorded, ..self }
    }

    /// The next list of operations, or why there is none.
    pub fn next_step(&mut self) -> Next {
        let Request { solver, steps, .. } = self.request;
        let next = match &mut self.route {
            Route::Adaptive(solver) => solver.next_step(),
            _ if self.given == steps => Next::Done,
            Route::Fixed(rule) => Next::Step(fixed_step(solver, self.given, steps, *rule)),
            Route::Descent(descent) => {
                let index = self.given as usize;
                let wants_noise = descent.wants_noise(index);
                let noise = match self.recorded.get(index) {
                    _ if !wants_noise => None,
                    Some(recorded) => Some(recorded.clone()),
                    None => Some(Arc::new(self.request.noise(self.given, self.sample_len))),
                };
                Next::Step(descent.step(index, noise))
            }
        };
        self.given += u32::from(matches!(next, Next::Step(_)));
        next
    }

    /// Takes in what came back from a step; every snapshot, in order.
    pub fn observe(&mut self, seen: Observation<'_>) {
        if let Route::Adaptive(solver) = &mut self.route {
            solver.observe(seen);
        }
    }

    /// Steps in all; `None` where the solver finds out on the way.
    pub fn step_count(&self) -> Option<u32> {
        (!self.request.solver.is_adaptive()).then_some(self.request.steps)
    }

    /// How far the run is after `finished` steps, 0 to 1.
    pub fn fraction(&self, finished: u32) -> f32 {
        match &self.route {
            Route::Adaptive(solver) => solver.time(),
            _ => finished as f32 / self.request.steps.max(1) as f32,
        }
    }
}

impl Request {
    /// Noise for one step of the whole batch.
    fn noise(&self, step: u32, sample_len: usize) -> Vec<f32> {
        let of = |picture| step_noise(self.seed, picture, step, sample_len);
        self.pictures.clone().flat_map(of).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scheduler::Ancestry;

    fn ddpm_model() -> Config {
        Config::from_json(
            r#"{"kind":"dense","t_kind":"ddpm","params":{"input_size":2,"num_classes":1,
            "patch_size":1,"depth":1,"hidden_size":4,"num_heads":1}}"#,
        )
        .unwrap()
    }

    fn noise_of(pictures: Range<u64>) -> Vec<Option<Vec<f32>>> {
        let solver = Solver::Ddpm(Ancestry::default());
        let request = Request { solver, steps: 3, guidance: 1.0, seed: 4, pictures };
        let mut plan = Plan::new(&ddpm_model(), request);
        let mut all = Vec::new();
        while let Next::Step(ops) = plan.next_step() {
            let Some(Instruction::Denoise(step)) = ops.last() else { panic!("{ops:?}") };
            all.push(step.noise.as_ref().map(|noise| noise.to_vec()));
        }
        assert_eq!(plan.next_step(), Next::Done);
        all
    }

    #[test]
    fn every_picture_and_step_has_noise_of_its_own_whatever_the_batch() {
        let both = noise_of(6..8);
        let [Some(first), Some(second), None] = &both[..] else { panic!("{both:?}") };
        assert_ne!(first, second);
        assert_ne!(first[..16], first[16..]);
        let alone = noise_of(7..8);
        assert_eq!(alone[1].as_deref(), Some(&second[16..]));
    }
}
