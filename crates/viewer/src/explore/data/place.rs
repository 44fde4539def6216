//! Where an expert works, whatever the image: how often it takes each patch, over all images of the run.

use super::lens::Lens;

/// Shares of one layer.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Place {
    /// Share of images and steps in which each expert takes each patch, `[E][T]`.
    pub(crate) shares: Vec<Vec<f32>>,
    /// Share of the variance of "takes the patch" that the place explains, mean over the experts that take some
    /// patches and not others; `None` where there is none such.
    pub(crate) explained: Option<f32>,
    /// Images times steps behind a share.
    pub(crate) samples: usize,
}

/// The shares over all images and the steps of a range.
pub(crate) fn place(lens: &Lens<'_>, layer: usize, steps: std::ops::Range<usize>) -> Option<Place> {
    let (experts, tokens) = (lens.trace.experts(), lens.trace.tokens());
    let mut counts = vec![vec![0_u32; tokens]; experts];
    let mut samples = 0;
    for layer in steps.filter_map(|step| lens.layer(step, layer)) {
        samples += layer.pool() / tokens.max(1);
        for token in 0..layer.pool() {
            let mask = layer.mask(token);
            for (e, counts) in counts.iter_mut().enumerate() {
                counts[token % tokens] += (mask >> e & 1) as u32;
            }
        }
    }
    if samples == 0 {
        return None;
    }
    let share = |count: &u32| *count as f32 / samples as f32;
    let shares: Vec<Vec<f32>> =
        counts.iter().map(|counts| counts.iter().map(share).collect()).collect();
    let explained: Vec<f32> = shares.iter().filter_map(|shares| explained(shares)).collect();
    let explained =
        (!explained.is_empty()).then(|| explained.iter().sum::<f32>() / explained.len() as f32);
    Some(Place { shares, explained, samples })
}

/// Variance between places over variance in all, of something that is 0 or 1.
fn explained(shares: &[f32]) -> Option<f32> {
    let n = shares.len().max(1) as f32;
    let mean = shares.iter().sum::<f32>() / n;
    let all = mean * (1.0 - mean);
    let between = shares.iter().map(|share| (share - mean).powi(2)).sum::<f32>() / n;
    (all > 1e-9).then(|| between / all)
}

#[cfg(test)]
mod tests {
    use diffmoe::scheduler::Branch;

    use super::super::tests::run;
    use super::*;

    #[test]
    fn shares_are_means_over_images_and_steps() {
        // Two images of four patches at two steps. Expert 0 takes the first patch always, expert 1 half of all
        // patches without a pattern of place, expert 2 nothing.
        let trace = run(
            &[
                &[&[0b11, 0b10, 0, 0, 0b01, 0, 0b10, 0b10]],
                &[&[0b01, 0, 0b10, 0b10, 0b11, 0b10, 0, 0]],
            ],
            3,
        );
        let lens = Lens::new(&trace, Branch::Conditional, 0.0);
        let place = place(&lens, 0, 0..2).unwrap();
        assert_eq!(place.samples, 4);
        assert_eq!(place.shares[0], [1.0, 0.0, 0.0, 0.0]);
        assert_eq!(place.shares[1], [0.5; 4]);
        assert_eq!(place.shares[2], [0.0; 4]);
        // The place says everything about expert 0 and nothing about expert 1.
        assert_eq!(place.explained, Some(0.5));
        assert_eq!(super::place(&lens, 0, 5..9), None);
    }
}
