//! Shared by all schedulers of flow models: velocities and data from passes of the model, as factors of buffers
//! (`t = 0` is noise, `t = 1` data, as in the official sampler).
//!
//! The model predicts the velocity `v = dz/dt`, its opposite, or the data, from which it follows. Guidance runs two
//! separate passes, each with a token pool of its own, and mixes them: `v = v_null + g·(v_label − v_null)`.
//! Because all of this is linear, prediction, guidance and the scheduler's update are one combination.

use super::cycle_spin::CycleSpin;
use super::guidance::Guidance;
use super::info::ScheduleConfig;
use super::program::{Branch, Instruction, Latent, Level};
use crate::model::{Config, Prediction};

/// What `1 − t` counts as at least where a prediction of data is divided by it: an adaptive scheduler asks for
/// velocities at `t = 1`.
const LEAST_LEFT: f32 = 0.01;

/// A shifted prediction that was shifted back.
const BACK: Latent = Latent::Velocity(4);
/// The mean over shifts, of the first and of the second evaluation in a step.
const MEANS: [Latent; 2] = [Latent::Velocity(5), Latent::Velocity(6)];

/// A linear combination of buffers.
pub(super) type Terms = Vec<(f32, Latent)>;

/// The level at `t = index/steps`.
pub(super) fn level(index: u32, steps: u32) -> Level {
    let t = f64::from(index) / f64::from(steps);
    Level { signal: t as f32, noise: (1.0 - t) as f32 }
}

/// How a velocity follows from passes of the model.
#[derive(Clone, Copy, Debug)]
pub(super) struct FlowModel {
    /// Where it does not apply, the unconditional pass is left out, as in the official code.
    pub(super) guidance: Guidance,
    pub(super) prediction: Prediction,
    /// Uses `Shifted` and the velocities from 4 on, so only schedulers that keep no such velocities may have it.
    pub(super) spin: CycleSpin,
    /// Pixels of a patch's side.
    pub(super) patch: usize,
}

impl FlowModel {
    pub(super) fn new(config: &Config, run: &ScheduleConfig) -> Self {
        let (prediction, patch) = (config.prediction, config.finest().patch_size);
        Self { guidance: run.guidance, prediction, spin: run.spin, patch }
    }

    /// Adds the passes for one velocity and returns it as factors of buffers.
    pub(super) fn velocity(
        self,
        step: &mut Vec<Instruction>,
        input: Latent,
        time: f32,
        first_output: u8,
    ) -> Terms {
        let mut terms = self.guided(step, input, time, first_output);
        let scale = |terms: &mut Terms, by: f32| terms.iter_mut().for_each(|term| term.0 *= by);
        match self.prediction {
            Prediction::Velocity => {}
            Prediction::Reversed => scale(&mut terms, -1.0),
            Prediction::Sample => {
                let rate = 1.0 / (1.0 - time).max(LEAST_LEFT);
                scale(&mut terms, rate);
                terms.push((-rate, input));
            }
        }
        terms
    }

    /// The guided prediction of the model, whatever it predicts; a mean over shifts where cycle spinning asks for it.
    pub(super) fn guided(
        self,
        step: &mut Vec<Instruction>,
        input: Latent,
        time: f32,
        first_output: u8,
    ) -> Terms {
        let terms = self.unshifted(step, input, time, first_output);
        let shifts: Vec<_> = self.spin.shifts(time, self.patch).collect();
        if shifts.is_empty() {
            return terms;
        }
        let mean = MEANS[usize::from(first_output) / 2];
        let share = 1.0 / (1 + shifts.len()) as f32;
        let part =
            |terms: Terms| terms.into_iter().map(|(f, latent)| (share * f, latent)).collect();
        step.push(Instruction::Combine { output: mean, terms: part(terms) });
        for [down, right] in shifts {
            let shifted = Latent::Shifted;
            step.push(Instruction::Shift { input, output: shifted, by: [down, right] });
            let terms = self.unshifted(step, shifted, time, first_output);
            step.push(Instruction::Combine { output: shifted, terms: part(terms) });
            step.push(Instruction::Shift { input: shifted, output: BACK, by: [-down, -right] });
            let terms = vec![(1.0, mean), (1.0, BACK)];
            step.push(Instruction::Combine { output: mean, terms });
        }
        vec![(1.0, mean)]
    }

    /// The guided prediction for one input.
    fn unshifted(
        self,
        step: &mut Vec<Instruction>,
        input: Latent,
        time: f32,
        first_output: u8,
    ) -> Terms {
        let mut pass = |branch, output| {
            step.push(Instruction::Forward { input, output, time, branch });
            output
        };
        let label = pass(Branch::Conditional, Latent::Output(first_output));
        if self.guidance.applies(time) {
            let null = pass(Branch::Unconditional, Latent::Output(first_output + 1));
            let scale = self.guidance.scale;
            vec![(1.0 - scale, null), (scale, label)]
        } else {
            vec![(1.0, label)]
        }
    }
}

/// `output = sample + Σ factor·velocity`, with one term for every buffer.
pub(super) fn advance(output: Latent, velocities: &[(f32, &Terms)]) -> Instruction {
    let mut terms = vec![(1.0, Latent::Sample)];
    for (factor, velocity) in velocities {
        for (weight, latent) in *velocity {
            match terms.iter_mut().find(|term| term.1 == *latent) {
                Some(term) => term.0 += factor * weight,
                None => terms.push((factor * weight, *latent)),
            }
        }
    }
    Instruction::Combine { output, terms }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scheduler::testing::{flow_model, sample, sample_steps};

    fn integrate(
        name: &str,
        steps: u32,
        guidance: f32,
        model: impl Fn(f32, f32, Branch) -> f32,
    ) -> f32 {
        sample(name, &flow_model(Prediction::Velocity), steps, guidance, model)
    }

    #[test]
    fn a_prediction_of_data_leads_where_its_velocity_does() {
        // One model with both targets: it predicts x = z + (1 − t)·v, guided and not. The last step of Heun's method
        // differs, so both take one step less than there are.
        let velocity = |z: f32, t: f32, branch| {
            let bend = if branch == Branch::Conditional { 2.0 } else { 0.5 };
            (bend * t).cos() - 0.3 * z
        };
        let data = |z: f32, t: f32, branch| z + (1.0 - t) * velocity(z, t, branch);
        for name in ["euler", "heun"] {
            for (guidance, steps) in [(1.0, 2), (1.0, 7), (2.5, 4), (2.5, 20)] {
                let of = |prediction, model: &dyn Fn(f32, f32, Branch) -> f32| {
                    sample_steps(name, &flow_model(prediction), steps, steps - 1, guidance, model)
                };
                let want = of(Prediction::Velocity, &velocity);
                let got = of(Prediction::Sample, &data);
                assert!((want - got).abs() < 1e-5, "{name} {guidance} {steps}: {got} for {want}");
            }
        }
    }

    #[test]
    fn the_opposite_velocity_leads_where_the_velocity_does() {
        let velocity = |z: f32, t: f32, branch| {
            let bend = if branch == Branch::Conditional { 2.0 } else { 0.5 };
            (bend * t).cos() - 0.3 * z
        };
        let reversed = |z: f32, t: f32, branch| -velocity(z, t, branch);
        for name in ["euler", "heun", "dpmpp_2m", "unipc"] {
            for (guidance, steps) in [(1.0, 7), (2.5, 4)] {
                let of = |prediction, model: &dyn Fn(f32, f32, Branch) -> f32| {
                    sample(name, &flow_model(prediction), steps, guidance, model)
                };
                let want = of(Prediction::Velocity, &velocity);
                let got = of(Prediction::Reversed, &reversed);
                assert!((want - got).abs() < 1e-6, "{name} {guidance} {steps}: {got} for {want}");
            }
        }
    }

    #[test]
    fn the_last_step_ends_at_the_predicted_data() {
        let config = flow_model(Prediction::Sample);
        let model = |z: f32, t: f32, _: Branch| 0.2 * z + t;
        for name in ["euler", "heun"] {
            let before = sample_steps(name, &config, 5, 4, 1.0, model);
            let end = sample(name, &config, 5, 1.0, model);
            let want = model(before, 0.8, Branch::Conditional);
            assert!((end - want).abs() < 1e-6, "{name}: {end} for {want}");
        }
    }

    #[test]
    fn schedulers_have_their_order_of_accuracy() {
        // dz/dt = -z from 1 has the exact end e⁻¹; halving the step halves Euler's error and quarters Heun's.
        let exact = (-1.0_f32).exp();
        let error = |name, steps| (integrate(name, steps, 1.0, |z, _, _| -z) - exact).abs();
        let ratio = |name| error(name, 10) / error(name, 20);
        assert!((ratio("euler") - 2.0).abs() < 0.1, "{}", ratio("euler"));
        assert!((ratio("heun") - 4.0).abs() < 0.3, "{}", ratio("heun"));
    }

    #[test]
    fn guidance_extrapolates_from_null_to_label() {
        let model = |_, _, branch| if branch == Branch::Conditional { 3.0 } else { 1.0 };
        // v = 1 + 2·(3 − 1) = 5 for a whole unit of time, from z = 1.
        for name in ["euler", "heun"] {
            assert!((integrate(name, 4, 2.0, model) - 6.0).abs() < 1e-5);
        }
    }
}
