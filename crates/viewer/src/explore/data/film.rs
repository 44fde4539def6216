//! The model's prediction of the image at each step.
//!
//! A sample of rectified flow at time t is `x = (1 − t)·noise + t·image` and moves with velocity `image − noise`,
//! so the expected image is `x + (1 − t)·v`. The velocity is read from two samples that follow each other; with a
//! solver of second order it is the mean over the step. Samples of DDPM do not show it: there the sample after each
//! step is shown.

use crate::session::Record;
use diffmoe::model::Objective;

/// Images of the film, at most.
const MOST_FRAMES: usize = 24;

/// The steps that the film shows, evenly spread.
pub(crate) fn frames_of_film(steps: usize) -> Vec<usize> {
    let every = steps.div_ceil(MOST_FRAMES).max(1);
    (0..steps).step_by(every).collect()
}

/// Whether the film of a run shows predicted images; otherwise it shows samples.
pub(crate) fn is_expected(record: &Record) -> bool {
    record.config.objective == Objective::Flow
}

/// The predicted image (x₀) of one sample at `step`, `[C, h, w]`, or the sample after it if that is unknown.
pub(crate) fn frame(record: &Record, step: usize, image: usize) -> Option<Vec<f32>> {
    let sample = |frame: usize| {
        record.frames.get(frame)?.chunks_exact(record.config.sample_len()).nth(image)
    };
    let (before, after) = (sample(step)?, sample(step + 1)?);
    if !is_expected(record) {
        return Some(after.to_vec());
    }
    let levels = record.noise_levels();
    let from = levels.get(step).copied().unwrap_or(f32::NAN);
    let to = match levels.get(step + 1) {
        Some(&next) => next,
        None if record.is_complete() => 0.0,
        // The next pass has not been yet; steps of a fixed solver are equal.
        None => from - 1.0 / record.steps().max(1) as f32,
    };
    let factor = from / (from - to);
    if !factor.is_finite() || factor < 0.0 {
        return Some(after.to_vec());
    }
    Some(before.iter().zip(after).map(|(x, y)| x + (y - x) * factor).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::tests::finished_record;

    #[test]
    fn the_expected_image_lies_on_the_line_through_two_samples() {
        let mut record = finished_record();
        let steps = record.finished_steps() as usize;
        assert!(steps >= 2);
        // Samples on the straight path from noise to an image: every step predicts that image.
        let (noise, image) = (record.frames[0].clone(), vec![0.25; record.frames[0].len()]);
        for (i, frame) in record.frames.iter_mut().enumerate() {
            let t = i as f32 / steps as f32;
            let mixed = noise.iter().zip(&image).map(|(n, p)| (1.0 - t) * n + t * p);
            *frame = mixed.collect();
        }
        for step in 0..steps {
            let expected = frame(&record, step, 1).unwrap();
            assert_eq!(expected.len(), record.config.sample_len());
            assert!(expected.iter().all(|v| (v - 0.25).abs() < 1e-4), "step {step}");
        }
        assert!(frame(&record, steps, 0).is_none() && frame(&record, 0, 2).is_none());
    }

    #[test]
    fn films_are_short() {
        assert_eq!(frames_of_film(10), (0..10).collect::<Vec<_>>());
        let long = frames_of_film(250);
        assert!(long.len() <= MOST_FRAMES && long[0] == 0 && *long.last().unwrap() < 250);
    }
}
