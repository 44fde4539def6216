//! Sharing out a batch by its images, and joining the results.

use std::ops::Range;
use std::sync::Arc;

use crate::engine::{ForwardRouting, Keep, LayerRouting, RunConfig, Scores, Snapshot, StageTimes};
use crate::scheduler::{Denoise, Instruction};

/// `batch` images in up to `most` ranges that differ by one image at most.
pub(super) fn ranges(batch: usize, most: usize) -> Vec<Range<usize>> {
    let count = most.clamp(1, batch.max(1));
    (0..count).map(|i| i * batch / count..(i + 1) * batch / count).collect()
}

/// A list with the same number of values for each image: those of some images.
fn cut<T: Clone>(values: &[T], batch: usize, part: &Range<usize>) -> Vec<T> {
    let each = values.len() / batch;
    values[part.start * each..part.end * each].to_vec()
}

/// A run of some of its images.
pub(super) fn run(config: &RunConfig, batch: usize, part: &Range<usize>) -> RunConfig {
    let buffers = config.buffers.iter().map(|(latent, values)| (*latent, cut(values, batch, part)));
    let keep = config.keep.as_ref().map(|keep| {
        let [image, noise, mask] =
            [&keep.image, &keep.noise, &keep.mask].map(|values| cut(values, batch, part));
        Arc::new(Keep { image, noise, mask })
    });
    RunConfig {
        keep,
        latent: cut(&config.latent, batch, part),
        buffers: buffers.collect(),
        labels: config.labels.iter().map(|rows| cut(rows, batch, part)).collect(),
        prompts: cut(&config.prompts, batch, part),
        ..config.clone()
    }
}

/// A step for some of its images.
pub(super) fn step(ops: &[Instruction], batch: usize, part: &Range<usize>) -> Vec<Instruction> {
    let of_part = |op: &Instruction| match op {
        Instruction::Denoise(step) => {
            let noise = step.noise.as_ref().map(|noise| Arc::new(cut(noise, batch, part)));
            Instruction::Denoise(Denoise { noise, ..step.clone() })
        }
        op => op.clone(),
    };
    ops.iter().map(of_part).collect()
}

/// The snapshot of a step whose images were computed in parts, in the order of the images.
pub(super) fn join(parts: Vec<Snapshot>) -> Option<Snapshot> {
    let mut parts = parts.into_iter();
    let mut whole = parts.next()?;
    for part in parts {
        whole.latent.extend(part.latent);
        for (all, values) in whole.reports.iter_mut().zip(part.reports) {
            all.extend(values);
        }
        for (all, pass) in whole.routing.iter_mut().zip(part.routing) {
            join_pass(all, pass);
        }
        // They work at the same time: the slowest counts.
        let mut slowest = StageTimes::default();
        for &(stage, ms) in &whole.stage_ms {
            let other = part.stage_ms.iter().find(|(other, _)| *other == stage);
            slowest.add(stage, other.map_or(ms, |other| other.1.max(ms)));
        }
        whole.stage_ms = slowest.list();
    }
    Some(whole)
}

fn join_pass(all: &mut ForwardRouting, part: ForwardRouting) {
    for (layer, LayerRouting { masks, scores, .. }) in all.layers.iter_mut().zip(part.layers) {
        layer.masks.extend(masks);
        if let (Some(all), Some(Scores { gate, need, .. })) = (&mut layer.scores, scores) {
            all.gate.extend(gate);
            all.need.extend(need);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_image_is_in_one_range() {
        assert_eq!(ranges(5, 2), [0..2, 2..5]);
        assert_eq!(ranges(1, 4), std::slice::from_ref(&(0..1)));
        assert_eq!(ranges(4, 4), [0..1, 1..2, 2..3, 3..4]);
        assert_eq!(ranges(3, 0), std::slice::from_ref(&(0..3)));
    }
}
