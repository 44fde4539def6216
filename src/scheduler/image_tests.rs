//! Runs that start from an image, and that keep a part of one, against the formulas in f64: for flow models those of the
//! straight path, for DDPM models those of Ho et al. 2020 and Song et al. 2021 with tables of their own.

use super::testing::{Machine, ddpm_model, flow_model};
use super::*;
use crate::model::{Config, Objective, Prediction};

const STEPS: u32 = 10;
const SEED: u64 = 3;
const IMAGE: f64 = 0.7;
const NOISE: f64 = -1.1;

fn velocity(z: f64, t: f64) -> f64 {
    (2.0 * t).cos() - 0.3 * z
}

fn epsilon(x: f64, time: f64) -> f64 {
    (1.3 * x).sin() + 0.2 * x * time / 1000.0 - 0.1
}

fn model(objective: Objective) -> (Config, impl Fn(f32, f32, Branch) -> f32 + Copy) {
    let config = match objective {
        Objective::Flow => flow_model(Prediction::Velocity),
        // It learns no variance.
        Objective::Ddpm => Config { out_channels: 4, ..ddpm_model() },
    };
    let predict = move |x: f32, t: f32, _: Branch| {
        let (x, t) = (f64::from(x), f64::from(t));
        (if objective == Objective::Flow { velocity(x, t) } else { epsilon(x, t) }) as f32
    };
    (config, predict)
}

fn schedule(name: &str, objective: Objective, strength: f32, keeps: bool) -> Box<dyn Scheduler> {
    let noise = StepNoise::Seeded { seed: SEED, images: 0..1 };
    let run = ScheduleConfig { strength, keeps, ..ScheduleConfig::new(STEPS, 1.0, noise) };
    let kind: SchedulerKind = name.parse().unwrap();
    kind.schedule(&model(objective).0, run)
}

/// The sample at the start of a run and after every step, with the mask of what is redrawn if a part is kept.
fn samples(name: &str, objective: Objective, strength: f32, mask: Option<f32>) -> Vec<f32> {
    let mut scheduler = schedule(name, objective, strength, mask.is_some());
    let start = scheduler.start().mix(IMAGE as f32, NOISE as f32);
    let kept = [IMAGE as f32, NOISE as f32, mask.unwrap_or(f32::NAN)];
    let mut machine = Machine::new(start, model(objective).1).keeping(kept);
    let mut samples = vec![start];
    loop {
        match scheduler.next() {
            Next::Step(ops) => {
                let seen = machine.run(&ops);
                scheduler.observe(seen.as_seen());
                samples.push(machine.latent());
            }
            Next::Done => return samples,
            other => panic!("{other:?}"),
        }
    }
}

fn near(got: f32, want: f64, what: &str) {
    assert!((f64::from(got) - want).abs() < 2e-5, "{what}: {got} for {want}");
}

/// `ᾱ` of the trained process.
fn bars() -> Vec<f64> {
    let beta = |i: usize| 1e-4 + (0.02 - 1e-4) * i as f64 / 999.0;
    let mut bar = 1.0;
    (0..1000)
        .map(|i| {
            bar *= 1.0 - beta(i);
            bar
        })
        .collect()
}

/// Signal and noise before each of the last `taken` steps and after the last, and the times that the model sees: ten
/// steps of 1000, the first and the last included.
fn ddpm_levels(taken: usize) -> (Vec<[f64; 2]>, Vec<f64>) {
    let bars = bars();
    let times: Vec<usize> = (0..10).rev().map(|i| 111 * i).collect();
    let times = &times[10 - taken..];
    let level = |&time: &usize| [bars[time].sqrt(), (1.0 - bars[time]).sqrt()];
    let levels = times.iter().map(level).chain([[1.0, 0.0]]).collect();
    (levels, times.iter().map(|&time| time as f64).collect())
}

fn blend(sample: f64, mask: Option<f64>, [signal, noise]: [f64; 2]) -> f64 {
    let known = signal * IMAGE + noise * NOISE;
    mask.map_or(sample, |mask| mask * sample + (1.0 - mask) * known)
}

#[test]
fn flow_models_continue_on_the_straight_path() {
    for (strength, taken) in [(0.3, 3), (0.65, 6), (1.0, 10)] {
        for mask in [None, Some(0.25)] {
            for (name, is_heun) in [("euler", false), ("heun", true)] {
                let got = samples(name, Objective::Flow, strength, mask.map(|m| m as f32));
                assert_eq!(got.len(), taken + 1, "{name} {strength}");
                let time = |i: usize| (10 - taken + i) as f64 / 10.0;
                let mut z = time(0) * IMAGE + (1.0 - time(0)) * NOISE;
                for (i, got) in got.iter().enumerate() {
                    near(*got, z, &format!("{name} {strength} {mask:?} after {i}"));
                    let first = velocity(z, time(i));
                    let second =
                        if is_heun { velocity(z + 0.1 * first, time(i + 1)) } else { first };
                    let next = z + 0.05 * (first + second);
                    z = blend(next, mask, [time(i + 1), 1.0 - time(i + 1)]);
                }
            }
        }
    }
}

#[test]
fn ddpm_models_continue_after_the_noise_of_their_first_step() {
    for (strength, taken) in [(0.5_f32, 5_usize), (1.0, 10)] {
        let (levels, times) = ddpm_levels(taken);
        for mask in [None, Some(0.25)] {
            for name in ["ddpm", "ddim"] {
                let got = samples(name, Objective::Ddpm, strength, mask.map(|m| m as f32));
                let mut x = levels[0][0] * IMAGE + levels[0][1] * NOISE;
                for i in 0..taken {
                    near(got[i], x, &format!("{name} {strength} {mask:?} after {i}"));
                    let ([alpha, sigma], [next, next_sigma]) = (levels[i], levels[i + 1]);
                    let predicted = epsilon(x, times[i]);
                    let data = (x - sigma * predicted) / alpha;
                    x = if name == "ddim" {
                        next * data + next_sigma * predicted
                    } else {
                        // The posterior of one step back; its variance is β where none is learned.
                        let keep = (alpha / next).powi(2);
                        let beta = 1.0 - keep;
                        let left = 1.0 - next * next;
                        let mean = (next * beta * data + keep.sqrt() * left * x) / (sigma * sigma);
                        let step = (10 - taken + i) as u32;
                        let noise = f64::from(step_noise(SEED, 0, step, 1)[0]);
                        mean + if i + 1 < taken { beta.sqrt() * noise } else { 0.0 }
                    };
                    x = blend(x, mask, levels[i + 1]);
                }
                near(got[taken], x, &format!("{name} {strength} {mask:?}"));
            }
        }
    }
}

/// A step without history is of order 1, which for the same noise is that of DDIM: `z_t = α_t·x₀ + σ_t·ε`.
#[test]
fn multistep_schedulers_start_afresh() {
    let bars = bars();
    // 999·(10 − i)/10, rounded.
    let time = |i: u32| (99.9 * f64::from(10 - i)).round_ties_even();
    let level = |i: u32| {
        let bar = if i == 10 { 1.0 } else { bars[time(i) as usize] };
        [bar.sqrt(), (1.0 - bar).sqrt()]
    };
    for name in ["dpmpp_2m", "unipc"] {
        let got = samples(name, Objective::Ddpm, 0.4, None);
        assert_eq!(got.len(), 5);
        let ([alpha, sigma], [next, next_sigma]) = (level(6), level(7));
        let x = alpha * IMAGE + sigma * NOISE;
        near(got[0], x, name);
        let predicted = epsilon(x, time(6));
        let data = (x - sigma * predicted) / alpha;
        near(got[1], next * data + next_sigma * predicted, name);

        let got = samples(name, Objective::Flow, 0.4, None);
        let z = 0.6 * IMAGE + 0.4 * NOISE;
        near(got[0], z, name);
        near(got[1], z + 0.1 * velocity(z, 0.6), name);
    }
}

#[test]
fn the_adaptive_scheduler_starts_on_the_way() {
    let mut scheduler = schedule("dopri5", Objective::Flow, 0.35, false);
    let start = scheduler.start();
    near(start.signal, 0.65, "signal");
    let mut machine = Machine::new(start.mix(IMAGE as f32, NOISE as f32), |z, t, _| {
        velocity(f64::from(z), f64::from(t)) as f32
    });
    let mut least = 1.0_f32;
    while let Next::Step(ops) = scheduler.next() {
        least = ops.iter().flat_map(Instruction::passes).fold(least, |a, pass| a.min(pass.0));
        scheduler.observe(machine.run(&ops).as_seen());
    }
    near(least, 0.65, "the first pass");
    // dz/dt = v by many small steps of Heun's method.
    let mut z = 0.65 * IMAGE + 0.35 * NOISE;
    for i in 0..1000 {
        let (t, dt) = (0.65 + 0.35 * f64::from(i) / 1000.0, 0.35 / 1000.0);
        let first = velocity(z, t);
        z += 0.5 * dt * (first + velocity(z + dt * first, t + dt));
    }
    assert!((f64::from(machine.latent()) - z).abs() < 1e-3, "{} for {z}", machine.latent());
}

#[test]
fn what_is_kept_ends_as_the_image_and_the_rest_as_without_a_mask() {
    for info in ALL.iter().filter(|info| !info.is_adaptive) {
        for &objective in info.objectives {
            for strength in [0.5, 1.0] {
                let kept = samples(info.name, objective, strength, Some(0.0));
                let end = kept.last().copied().unwrap();
                assert_eq!(end.to_bits(), (IMAGE as f32).to_bits(), "{} {strength}", info.name);
                let redrawn = samples(info.name, objective, strength, Some(1.0));
                let plain = samples(info.name, objective, strength, None);
                assert_eq!(redrawn, plain, "{} {strength}", info.name);
                assert_ne!(kept[1].to_bits(), plain[1].to_bits());
            }
        }
    }
}
