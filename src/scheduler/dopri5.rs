//! The adaptive scheduler of Dormand and Prince (1980), orders 5 and 4, with the controller, first step and
//! interpolation of `torchdiffeq`, the library that the official sampler calls: same tableau (Shampine's),
//! same error norm (root mean square over the whole batch), same reaction to it.
//!
//! As there, the last step may end beyond `t = 1`, and the sample at 1 is interpolated. A step is computed on
//! the device and accepted or rejected here when its result and error have arrived; nothing blocks.

use super::contract::{Next, Scheduler, SchedulerState};
use super::flow::FlowModel;
use super::info::{Resume, SchedulerInfo};
use super::options::{OptionInfo, OptionValues};
use super::program::{Instruction, Latent, Level, Observation};
use crate::model::Objective;

/// It keeps velocities on the device and the shape of the last steps here, so a run restarts after a lost device.
pub(super) static DOPRI5: SchedulerInfo = SchedulerInfo {
    name: "dopri5",
    title: "Adaptive",
    hint: "Dormand–Prince pair of orders 5 and 4: adapts its steps to the estimated error.",
    objectives: &[Objective::Flow],
    options: &[RTOL, ATOL],
    is_adaptive: true,
    max_ddpm_steps: 0,
    resume: Resume::Restart,
    start: |kind, config, run| {
        let model = FlowModel::new(config, &run);
        let [relative, absolute] = [RTOL, ATOL].map(|option| kind.number(option.name));
        let start = 1.0 - f64::from(run.strength);
        Box::new(Dopri5::new(AdaptiveOptions { relative, absolute }, model, start))
    },
};

/// `rtol`, with torchdiffeq's default in the official sampler.
const RTOL: OptionInfo = OptionInfo {
    name: "rtol",
    title: "Relative tolerance",
    hint: "Relative error tolerance per step.",
    values: OptionValues::Number { min: 1e-7, max: 1.0, default: 1e-3 },
    only: None,
};

/// `atol`, with torchdiffeq's default in the official sampler.
const ATOL: OptionInfo = OptionInfo {
    name: "atol",
    title: "Absolute tolerance",
    hint: "Absolute error tolerance per step.",
    values: OptionValues::Number { min: 1e-7, max: 1.0, default: 1e-6 },
    only: None,
};

/// The error that is accepted in one step: `absolute + relative·|z|`, as a root mean square.
#[derive(Clone, Copy, Debug, PartialEq)]
struct AdaptiveOptions {
    /// Relative to the sample's numbers.
    relative: f32,
    /// Where they are near zero.
    absolute: f32,
}

/// Where in a step the velocity is evaluated, from the second evaluation on.
const NODES: [f64; 6] = [1.0 / 5.0, 3.0 / 10.0, 4.0 / 5.0, 8.0 / 9.0, 1.0, 1.0];

/// From which velocities the point of each evaluation follows; the last row is the step itself.
const STAGES: [&[f64]; 6] = [
    &[1.0 / 5.0],
    &[3.0 / 40.0, 9.0 / 40.0],
    &[44.0 / 45.0, -56.0 / 15.0, 32.0 / 9.0],
    &[19_372.0 / 6561.0, -25_360.0 / 2187.0, 64_448.0 / 6561.0, -212.0 / 729.0],
    &[9017.0 / 3168.0, -355.0 / 33.0, 46_732.0 / 5247.0, 49.0 / 176.0, -5103.0 / 18_656.0],
    &STEP,
];

/// The step of order 5.
const STEP: [f64; 6] =
    [35.0 / 384.0, 0.0, 500.0 / 1113.0, 125.0 / 192.0, -2187.0 / 6784.0, 11.0 / 84.0];

/// The same minus the step of order 4: the estimated error.
const ERROR: [f64; 7] = [
    35.0 / 384.0 - 1951.0 / 21_600.0,
    0.0,
    500.0 / 1113.0 - 22_642.0 / 50_085.0,
    125.0 / 192.0 - 451.0 / 720.0,
    -2187.0 / 6784.0 + 12_231.0 / 42_400.0,
    11.0 / 84.0 - 649.0 / 6300.0,
    -1.0 / 60.0,
];

/// The middle of the step, for interpolation.
const MIDDLE: [f64; 7] = [
    6_025_192_743.0 / 30_085_553_152.0 / 2.0,
    0.0,
    51_252_292_925.0 / 65_400_821_598.0 / 2.0,
    -2_691_868_925.0 / 45_128_329_728.0 / 2.0,
    187_940_372_067.0 / 1_594_534_317_056.0 / 2.0,
    -1_776_094_331.0 / 19_743_644_256.0 / 2.0,
    11_237_099.0 / 235_043_384.0 / 2.0,
];

/// What the solver does next, or waits for.
#[derive(Clone, Debug, PartialEq)]
enum Phase {
    /// Velocity at the start.
    Start,
    StartIsOut,
    /// Velocity a little later, to choose the first step.
    Probe {
        start: Vec<f32>,
        rate: Vec<f32>,
    },
    ProbeIsOut {
        start: Vec<f32>,
        rate: Vec<f32>,
    },
    /// A step from `time` by `step`. If the previous one was accepted, its end becomes the start of this one.
    Trial {
        after_accepted: bool,
    },
    TrialIsOut,
    /// `t = 1` lies in the step that was accepted last: interpolate.
    Last,
    Done,
}

/// The state between two steps.
#[derive(Clone, Debug)]
struct Dopri5 {
    tolerance: AdaptiveOptions,
    model: FlowModel,
    phase: Phase,
    /// Start of the run.
    start: f64,
    /// Start of the current step.
    time: f64,
    /// Its length; before the first step the length of the probe.
    step: f64,
}

impl Dopri5 {
    /// From `t = start` on.
    fn new(tolerance: AdaptiveOptions, model: FlowModel, start: f64) -> Self {
        Self { tolerance, model, phase: Phase::Start, start, time: start, step: 0.0 }
    }

    /// The next list of instructions.
    fn next_step(&mut self) -> Next {
        let mut ops = Vec::new();
        self.phase = match std::mem::replace(&mut self.phase, Phase::Done) {
            Phase::Start => {
                self.rate(&mut ops, Latent::Sample, self.time, 0);
                ops.push(Instruction::Report(Latent::Velocity(0)));
                Phase::StartIsOut
            }
            Phase::Probe { start, rate } => {
                let terms = vec![(1.0, Latent::Sample), (self.step as f32, Latent::Velocity(0))];
                ops.push(Instruction::Combine { output: Latent::Trial, terms });
                self.rate(&mut ops, Latent::Trial, self.time + self.step, 1);
                ops.push(Instruction::Report(Latent::Velocity(1)));
                Phase::ProbeIsOut { start, rate }
            }
            Phase::Trial { after_accepted } => {
                // The least step that changes the time of a pass.
                if !self.step.is_finite() || self.step < 1e-7 {
                    return Next::Stalled(format!(
                        "dopri5 cannot meet the tolerance at t = {:.3}: use a larger one, or \
                            heun",
                        self.time
                    ));
                }
                self.trial(&mut ops, after_accepted);
                Phase::TrialIsOut
            }
            Phase::Last => {
                ops.push(self.interpolation());
                Phase::Done
            }
            Phase::Done => return Next::Done,
            waiting => {
                self.phase = waiting;
                return Next::Wait;
            }
        };
        Next::Step(ops)
    }

    /// `Velocity(to) = v(input, time)`.
    fn rate(&self, ops: &mut Vec<Instruction>, input: Latent, time: f64, to: u8) {
        let terms = self.model.velocity(ops, input, time as f32, 0);
        ops.push(Instruction::Combine { output: Latent::Velocity(to), terms });
    }

    fn trial(&self, ops: &mut Vec<Instruction>, after_accepted: bool) {
        if after_accepted {
            ops.push(Instruction::Combine {
                output: Latent::Sample,
                terms: vec![(1.0, Latent::Trial)],
            });
            ops.push(Instruction::Combine {
                output: Latent::Velocity(0),
                terms: vec![(1.0, Latent::Velocity(6))],
            });
        }
        for (to, (node, factors)) in (1..).zip(NODES.iter().zip(STAGES)) {
            let terms = self.weighted(Some(Latent::Sample), factors);
            ops.push(Instruction::Combine { output: Latent::Trial, terms });
            self.rate(ops, Latent::Trial, self.time + node * self.step, to);
        }
        // The second velocity counts neither in the step nor in its error: its place is free.
        ops.push(Instruction::Combine {
            output: Latent::Velocity(1),
            terms: self.weighted(None, &ERROR),
        });
        ops.push(Instruction::Report(Latent::Trial));
        ops.push(Instruction::Report(Latent::Velocity(1)));
    }

    /// `start + step·Σ factor·velocity`.
    fn weighted(&self, start: Option<Latent>, factors: &[f64]) -> Vec<(f32, Latent)> {
        let velocities = (0..).zip(factors).filter(|(_, factor)| **factor != 0.0);
        let velocities =
            velocities.map(|(n, factor)| ((factor * self.step) as f32, Latent::Velocity(n)));
        start.map(|latent| (1.0, latent)).into_iter().chain(velocities).collect()
    }

    /// The sample at `t = 1` by the polynomial of degree 4 through start, middle and end of the step and
    /// the velocities at both ends.
    fn interpolation(&self) -> Instruction {
        let x = (1.0 - self.time) / self.step;
        let (x2, x3, x4) = (x * x, x * x * x, x * x * x * x);
        let end = -5.0 * x2 + 14.0 * x3 - 8.0 * x4;
        let middle = 16.0 * x2 - 32.0 * x3 + 16.0 * x4;
        let mut factors: [f64; 7] =
            std::array::from_fn(|i| end * STEP.get(i).unwrap_or(&0.0) + middle * MIDDLE[i]);
        factors[0] += x - 4.0 * x2 + 5.0 * x3 - 2.0 * x4;
        factors[6] += x2 - 3.0 * x3 + 2.0 * x4;
        Instruction::Combine {
            output: Latent::Sample,
            terms: self.weighted(Some(Latent::Sample), &factors),
        }
    }

    /// Collects the results.
    fn take_in(&mut self, seen: Observation<'_>) {
        let reports = seen.reports;
        self.phase = match (std::mem::replace(&mut self.phase, Phase::Done), reports) {
            (Phase::StartIsOut, [rate]) => {
                let start = seen.sample.to_vec();
                let [size, speed] = [&start, rate].map(|of| self.norm(of, &start, &start));
                self.step = if size < 1e-5 || speed < 1e-5 { 1e-6 } else { 0.01 * size / speed };
                Phase::Probe { start, rate: rate.clone() }
            }
            (Phase::ProbeIsOut { start, rate }, [later]) => {
                let change: Vec<f32> = later.iter().zip(&rate).map(|(b, a)| b - a).collect();
                let speed = self.norm(&rate, &start, &start);
                let bend = self.norm(&change, &start, &start) / self.step;
                let step = if speed <= 1e-15 && bend <= 1e-15 {
                    (self.step * 1e-3).max(1e-6)
                } else {
                    libm::pow(0.01 / speed.max(bend), 1.0 / 5.0)
                };
                self.step = step.min(100.0 * self.step);
                Phase::Trial { after_accepted: false }
            }
            (Phase::TrialIsOut, [end, error]) => self.judge(seen.sample, end, error),
            (phase, _) => phase,
        };
    }

    /// Accepts or rejects the finished step and chooses the next.
    fn judge(&mut self, start: &[f32], end: &[f32], error: &[f32]) -> Phase {
        let ratio = self.norm(error, start, end);
        let is_accepted = ratio <= 1.0;
        if is_accepted && self.time + self.step >= 1.0 {
            return Phase::Last;
        }
        if is_accepted {
            self.time += self.step;
        }
        let least = if ratio < 1.0 { 1.0 } else { 0.2 };
        // Not a number counts as an error beyond measure: `max` passes over it.
        let factor = (0.9 / libm::pow(ratio, 0.2)).max(least).min(10.0);
        self.step *= factor;
        Phase::Trial { after_accepted: is_accepted }
    }

    /// Root mean square of `values` in units of the tolerance, in f64: the same on every device.
    fn norm(&self, values: &[f32], start: &[f32], end: &[f32]) -> f64 {
        let [relative, absolute] =
            [self.tolerance.relative, self.tolerance.absolute].map(f64::from);
        let square = |((value, a), b): ((&f32, &f32), &f32)| {
            let scale = absolute + relative * f64::from(a.abs().max(b.abs()));
            (f64::from(*value) / scale).powi(2)
        };
        let sum: f64 = values.iter().zip(start).zip(end).map(square).sum();
        (sum / values.len() as f64).sqrt()
    }
}

impl Scheduler for Dopri5 {
    fn next(&mut self) -> Next {
        self.next_step()
    }

    fn observe(&mut self, seen: Observation<'_>) {
        self.take_in(seen);
    }

    fn state(&self) -> Option<SchedulerState> {
        None
    }

    fn restore(&mut self, _: SchedulerState) {
        *self = Self::new(self.tolerance, self.model, self.start);
    }

    fn start(&self) -> Level {
        Level { signal: self.start as f32, noise: (1.0 - self.start) as f32 }
    }

    fn step_count(&self) -> Option<u32> {
        None
    }

    /// How far the accepted steps have come.
    fn fraction(&self, _: u32) -> f32 {
        let way = (self.time - self.start) / (1.0 - self.start);
        if self.phase == Phase::Done { 1.0 } else { way as f32 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Prediction;
    use crate::scheduler::testing::{Machine, flow_model};
    use crate::scheduler::{ScheduleConfig, StepNoise};

    const DEFAULT: AdaptiveOptions = AdaptiveOptions { relative: 1e-3, absolute: 1e-6 };

    fn plain(guidance: f32) -> FlowModel {
        let run = ScheduleConfig::new(1, guidance, StepNoise::Seeded { seed: 0, images: 0..1 });
        FlowModel::new(&flow_model(Prediction::Velocity), &run)
    }

    /// Solves dz/dt = f(z, t) from 1 and gives the end and the times of the evaluations.
    fn solve(relative: f32, f: impl Fn(f32, f32) -> f32 + Copy) -> (f32, Vec<f32>) {
        let tolerance = AdaptiveOptions { relative, absolute: 1e-6 };
        let mut solver = Dopri5::new(tolerance, plain(1.0), 0.0);
        let mut machine = Machine::new(1.0, move |z, t, _| f(z, t));
        let mut times = Vec::new();
        loop {
            match solver.next_step() {
                Next::Step(ops) => {
                    times.extend(ops.iter().flat_map(Instruction::passes).map(|pass| pass.0));
                    let snapshot = machine.run(&ops);
                    solver.take_in(snapshot.as_seen());
                }
                Next::Wait => panic!("everything has come back"),
                Next::Stalled(reason) => panic!("{reason}"),
                Next::Done => return (machine.latent(), times),
            }
        }
    }

    #[test]
    fn a_tighter_tolerance_costs_more_and_is_more_exact() {
        // z = exp(sin 3t / 3) solves dz/dt = z·cos 3t.
        let exact = (3.0_f32.sin() / 3.0).exp();
        let run = |tolerance| solve(tolerance, |z, t| z * (3.0 * t).cos());
        let (loose, few) = run(1e-2);
        let (tight, many) = run(1e-5);
        assert!((loose - exact).abs() < 2e-2, "{loose} for {exact}");
        assert!((tight - exact).abs() < 1e-5, "{tight} for {exact}");
        assert!(many.len() > few.len(), "{} and {} evaluations", many.len(), few.len());
    }

    /// Times and ends printed by torchdiffeq 0.2.5 (float32, atol 1e-6, rtol 1e-3): the second velocity turns
    /// from 1 to -3 in the middle, and three steps are rejected there.
    #[test]
    fn steps_are_those_of_torchdiffeq() {
        const SWING: [f32; 26] = [
            0.0, 0.01, 0.02, 0.030_01, 0.080_02, 0.088_91, 0.100_02, 0.100_02, 0.263_01, 0.344_51,
            0.751_99, 0.824_43, 0.914_98, 0.914_98, 0.220_95, 0.281_41, 0.583_74, 0.637_49,
            0.704_67, 0.704_67, 0.838_81, 0.905_89, 1.241_25, 1.300_87, 1.375_4, 1.375_4,
        ];
        const TURN: [f32; 50] = [
            0.0, 0.01, 0.02, 0.030_01, 0.080_02, 0.088_91, 0.100_02, 0.100_02, 0.300_06, 0.400_08,
            0.900_18, 0.989_09, 1.100_22, 1.100_22, 0.221_57, 0.282_34, 0.586_2, 0.640_22,
            0.707_75, 0.707_75, 0.187_64, 0.231_45, 0.450_49, 0.489_43, 0.538_1, 0.538_1, 0.173_35,
            0.210_01, 0.393_33, 0.425_92, 0.466_66, 0.466_66, 0.165_42, 0.198_12, 0.361_61,
            0.390_68, 0.427_01, 0.427_01, 0.505_89, 0.545_33, 0.742_52, 0.777_58, 0.821_4, 0.821_4,
            0.905_63, 0.947_75, 1.158_33, 1.195_77, 1.242_56, 1.242_56,
        ];
        let compare = |(end, times): (f32, Vec<f32>), wanted: &[f32], wanted_end: f32| {
            assert_eq!(times.len(), wanted.len(), "{times:?}");
            for (got, want) in times.iter().zip(wanted) {
                // A step follows from the fifth root of an error that is a difference of rounded numbers.
                assert!((got - want).abs() < 0.01 * want.max(0.1), "{got} for {want}");
            }
            assert!((end - wanted_end).abs() < 1e-3, "{end} for {wanted_end}");
        };
        compare(solve(1e-3, |z, t| z * (3.0 * t).cos()), &SWING, 1.046_414_7);
        let turn = solve(1e-3, |_, t| -1.0 - 2.0 * (20.0 * (t - 0.5)).tanh());
        compare(turn, &TURN, -0.062_934_98);
    }

    #[test]
    fn polynomials_of_degree_four_are_exact_even_where_the_end_is_interpolated() {
        let (end, _) = solve(1e-3, |_, t| 5.0 * t * t * t - 2.0 * t);
        assert!((end - (1.0 + 1.25 - 1.0)).abs() < 1e-5, "{end}");
    }

    #[test]
    fn velocities_that_are_no_numbers_end_the_run() {
        let mut solver = Dopri5::new(DEFAULT, plain(1.0), 0.0);
        let mut machine = Machine::new(1.0, |_, t, _| if t > 0.3 { f32::NAN } else { 1.0 });
        for _ in 0..1000 {
            match solver.next_step() {
                Next::Step(ops) => solver.take_in(machine.run(&ops).as_seen()),
                Next::Stalled(reason) => {
                    assert!(reason.contains("tolerance"), "{reason}");
                    return;
                }
                other => panic!("{other:?}"),
            }
        }
        panic!("it goes on for ever");
    }

    #[test]
    #[expect(clippy::float_cmp, reason = "these numbers are exact")]
    fn progress_is_the_part_of_the_way_from_the_start() {
        let mut solver = Dopri5::new(DEFAULT, plain(1.0), 0.5);
        assert_eq!((solver.fraction(0), solver.step_count()), (0.0, None));
        solver.time = 0.75;
        assert_eq!(solver.fraction(0), 0.5);
        solver.phase = Phase::Done;
        assert_eq!(solver.fraction(0), 1.0);
    }

    #[test]
    fn a_step_that_is_out_is_waited_for() {
        let mut solver = Dopri5::new(DEFAULT, plain(1.5), 0.0);
        assert!(matches!(solver.next_step(), Next::Step(_)));
        assert!(matches!(solver.next_step(), Next::Wait));
        assert!(matches!(solver.next_step(), Next::Wait));
    }
}
