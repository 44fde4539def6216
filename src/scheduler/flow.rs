//! Rectified-flow solvers with fixed steps as lists of [`Instruction`]s (spec of the official sampler: `t = 0` is noise, `t = 1` data).
//!
//! The model predicts the velocity `v = dz/dt`, or the data, from which it follows. Guidance runs two
//! separate passes, each with a token pool of its own, and mixes them: `v = v_null + g·(v_label − v_null)`.
//! Because all of this is linear, prediction, guidance and the solver's update are one combination.

use super::program::{Branch, Instruction, Latent};
use super::solver::Solver;
use crate::model::Prediction;

/// What `1 − t` counts as at least where a prediction of data is divided by it: an adaptive solver asks for
/// velocities at `t = 1`.
const LEAST_LEFT: f32 = 0.01;

/// How a velocity follows from passes of the model.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rule {
    /// Guidance scale; 1 means none: the unconditional pass is left out, as in the official code.
    pub guidance: f32,
    pub prediction: Prediction,
}

/// Step `index` of `steps`, from `t = index/steps` to `(index+1)/steps`. Heun's method where `solver` says
/// so, else Euler's.
///
/// Heun's method looks at the end of a step. At `t = 1` no noise is left from which a prediction of data could
/// tell a velocity, so for such a model the last step is Euler's, which ends at the data that is predicted.
pub(super) fn fixed_step(solver: Solver, index: u32, steps: u32, rule: Rule) -> Vec<Instruction> {
    let time = |i: u32| i as f32 / steps as f32;
    let dt = 1.0 / steps as f32;
    let mut ops = Vec::new();
    let first = rule.velocity(&mut ops, Latent::Sample, time(index), 0);
    let is_end = index + 1 == steps && rule.prediction == Prediction::Sample;
    if solver == Solver::Heun && !is_end {
        ops.push(advance(Latent::Trial, &[(dt, &first)]));
        let second = rule.velocity(&mut ops, Latent::Trial, time(index + 1), 2);
        ops.push(advance(Latent::Sample, &[(0.5 * dt, &first), (0.5 * dt, &second)]));
    } else {
        ops.push(advance(Latent::Sample, &[(dt, &first)]));
    }
    ops
}

impl Rule {
    /// Adds the passes for one velocity and returns it as factors of slots.
    pub(super) fn velocity(
        self,
        ops: &mut Vec<Instruction>,
        input: Latent,
        time: f32,
        first_output: u8,
    ) -> Vec<(f32, Latent)> {
        let mut pass = |branch, output| {
            ops.push(Instruction::Forward { input, output, time, branch });
            output
        };
        let label = pass(Branch::Conditional, Latent::Output(first_output));
        #[expect(
            clippy::float_cmp,
            reason = "exactly 1 is the documented way to switch guidance off"
        )]
        let mut terms = if self.guidance == 1.0 {
            vec![(1.0, label)]
        } else {
            let null = pass(Branch::Unconditional, Latent::Output(first_output + 1));
            vec![(1.0 - self.guidance, null), (self.guidance, label)]
        };
        if self.prediction == Prediction::Sample {
            let rate = 1.0 / (1.0 - time).max(LEAST_LEFT);
            for term in &mut terms {
                term.0 *= rate;
            }
            terms.push((-rate, input));
        }
        terms
    }
}

/// `output = latent + Σ factor·velocity`, with one term for every slot.
fn advance(output: Latent, velocities: &[(f32, &Vec<(f32, Latent)>)]) -> Instruction {
    let mut terms = vec![(1.0, Latent::Sample)];
    for (factor, velocity) in velocities {
        for (weight, slot) in *velocity {
            match terms.iter_mut().find(|term| term.1 == *slot) {
                Some(term) => term.0 += factor * weight,
                None => terms.push((factor * weight, *slot)),
            }
        }
    }
    Instruction::Combine { output, terms }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scheduler::testing::Machine;

    fn plain(guidance: f32) -> Rule {
        Rule { guidance, prediction: Prediction::Velocity }
    }

    /// Runs the ops on one number with a model that is a known function.
    fn integrate(
        solver: Solver,
        steps: u32,
        guidance: f32,
        model: impl Fn(f32, f32, Branch) -> f32,
    ) -> f32 {
        integrate_by(plain(guidance), solver, steps, steps, model)
    }

    fn integrate_by(
        rule: Rule,
        solver: Solver,
        steps: u32,
        taken: u32,
        model: impl Fn(f32, f32, Branch) -> f32,
    ) -> f32 {
        let mut machine = Machine::new(1.0, model);
        for i in 0..taken {
            machine.run(&fixed_step(solver, i, steps, rule));
        }
        machine.latent()
    }

    #[test]
    fn a_prediction_of_data_leads_where_its_velocity_does() {
        // One model in both forms: it says x = z + (1 − t)·v, guided and not. The last step of Heun's method
        // differs, so both take one step less than there are.
        let velocity = |z: f32, t: f32, branch| {
            let bend = if branch == Branch::Conditional { 2.0 } else { 0.5 };
            (bend * t).cos() - 0.3 * z
        };
        let data = |z: f32, t: f32, branch| z + (1.0 - t) * velocity(z, t, branch);
        for solver in [Solver::Euler, Solver::Heun] {
            for (guidance, steps) in [(1.0, 2), (1.0, 7), (2.5, 4), (2.5, 20)] {
                let by = |prediction| Rule { guidance, prediction };
                let want =
                    integrate_by(by(Prediction::Velocity), solver, steps, steps - 1, velocity);
                let got = integrate_by(by(Prediction::Sample), solver, steps, steps - 1, data);
                assert!((want - got).abs() < 1e-5, "{solver} {guidance} {steps}: {got} for {want}");
            }
        }
    }

    #[test]
    fn the_last_step_ends_at_the_predicted_data() {
        let rule = Rule { guidance: 1.0, prediction: Prediction::Sample };
        let model = |z: f32, t: f32, _: Branch| 0.2 * z + t;
        for solver in [Solver::Euler, Solver::Heun] {
            let before = integrate_by(rule, solver, 5, 4, model);
            let end = integrate_by(rule, solver, 5, 5, model);
            assert!(
                (end - model(before, 0.8, Branch::Conditional)).abs() < 1e-6,
                "{solver}: {end}"
            );
        }
    }

    #[test]
    fn solvers_have_their_order_of_accuracy() {
        // dz/dt = -z from 1 has the exact end e⁻¹; halving the step halves Euler's error and quarters Heun's.
        let exact = (-1.0_f32).exp();
        let error = |solver, steps| (integrate(solver, steps, 1.0, |z, _, _| -z) - exact).abs();
        let ratio = |solver| error(solver, 10) / error(solver, 20);
        assert!((ratio(Solver::Euler) - 2.0).abs() < 0.1, "{}", ratio(Solver::Euler));
        assert!((ratio(Solver::Heun) - 4.0).abs() < 0.3, "{}", ratio(Solver::Heun));
    }

    #[test]
    fn guidance_extrapolates_from_null_to_label() {
        let model = |_, _, branch| if branch == Branch::Conditional { 3.0 } else { 1.0 };
        // v = 1 + 2·(3 − 1) = 5 for a whole unit of time, from z = 1.
        for solver in [Solver::Euler, Solver::Heun] {
            assert!((integrate(solver, 4, 2.0, model) - 6.0).abs() < 1e-5);
        }
    }

    #[test]
    fn no_guidance_means_no_unconditional_pass() {
        let passes = |g| {
            let is_pass = |op: &&Instruction| matches!(op, Instruction::Forward { .. });
            fixed_step(Solver::Heun, 0, 3, plain(g)).iter().filter(is_pass).count()
        };
        assert_eq!((passes(1.0), passes(1.5)), (2, 4));
    }

    #[test]
    fn heun_evaluates_the_end_of_the_last_step() {
        let ops = fixed_step(Solver::Heun, 2, 3, plain(1.0));
        let last = ops.iter().rev().find_map(|op| match op {
            Instruction::Forward { time, .. } => Some(*time),
            _ => None,
        });
        assert_eq!(last, Some(1.0));
    }
}
