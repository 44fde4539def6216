//! Rectified-flow solvers with fixed steps as lists of [`Op`]s (spec of the official sampler: `t = 0` is noise, `t = 1` data).
//!
//! The model predicts the velocity `v = dz/dt`. Guidance runs two separate passes, each with a token pool
//! of its own, and mixes them: `v = v_null + g·(v_label − v_null)`. Because the mixture is linear, guidance
//! and the solver's update are one combination.

use super::solver::Solver;
use crate::model::{Branch, Op, Slot};

/// Step `index` of `steps`, from `t = index/steps` to `(index+1)/steps`, with guidance scale `guidance`
/// (1 means none: the unconditional pass is left out, as in the official code). Heun's method where
/// `solver` says so, else Euler's.
pub(super) fn fixed_step(solver: Solver, index: u32, steps: u32, guidance: f32) -> Vec<Op> {
    let time = |i: u32| i as f32 / steps as f32;
    let dt = 1.0 / steps as f32;
    let mut ops = Vec::new();
    let first = guided_velocity(&mut ops, Slot::Latent, time(index), guidance, 0);
    if solver == Solver::Heun {
        ops.push(advance(Slot::Stage, &[(dt, &first)]));
        let second = guided_velocity(&mut ops, Slot::Stage, time(index + 1), guidance, 2);
        ops.push(advance(Slot::Latent, &[(0.5 * dt, &first), (0.5 * dt, &second)]));
    } else {
        ops.push(advance(Slot::Latent, &[(dt, &first)]));
    }
    ops
}

/// Adds the passes for one velocity and returns it as factors of output slots.
pub(super) fn guided_velocity(
    ops: &mut Vec<Op>,
    input: Slot,
    time: f32,
    guidance: f32,
    first_output: u8,
) -> Vec<(f32, Slot)> {
    let mut pass = |branch, output| {
        ops.push(Op::Forward { input, output, time, branch });
        output
    };
    let label = pass(Branch::Conditional, Slot::Output(first_output));
    #[expect(clippy::float_cmp, reason = "exactly 1 is the documented way to switch guidance off")]
    if guidance == 1.0 {
        return vec![(1.0, label)];
    }
    let null = pass(Branch::Unconditional, Slot::Output(first_output + 1));
    vec![(1.0 - guidance, null), (guidance, label)]
}

/// `output = latent + Σ factor·velocity`.
fn advance(output: Slot, velocities: &[(f32, &Vec<(f32, Slot)>)]) -> Op {
    let mut terms = vec![(1.0, Slot::Latent)];
    for (factor, velocity) in velocities {
        terms.extend(velocity.iter().map(|(weight, slot)| (factor * weight, *slot)));
    }
    Op::Combine { output, terms }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diffusion::testing::Machine;

    /// Runs the ops on one number with a model that is a known function.
    fn integrate(
        solver: Solver,
        steps: u32,
        guidance: f32,
        model: impl Fn(f32, f32, Branch) -> f32,
    ) -> f32 {
        let mut machine = Machine::new(1.0, model);
        for i in 0..steps {
            machine.run(&fixed_step(solver, i, steps, guidance));
        }
        machine.latent()
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
            let is_pass = |op: &&Op| matches!(op, Op::Forward { .. });
            fixed_step(Solver::Heun, 0, 3, g).iter().filter(is_pass).count()
        };
        assert_eq!((passes(1.0), passes(1.5)), (2, 4));
    }

    #[test]
    fn heun_evaluates_the_end_of_the_last_step() {
        let ops = fixed_step(Solver::Heun, 2, 3, 1.0);
        let last = ops.iter().rev().find_map(|op| match op {
            Op::Forward { time, .. } => Some(*time),
            _ => None,
        });
        assert_eq!(last, Some(1.0));
    }
}
