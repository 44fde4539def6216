//! One image at one step, patch by patch: who takes it, how many, and how close the decision was.

use super::lens::{Layer, Lens};

/// Who takes a patch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Taken {
    /// The expert with the largest gate; the lowest number where gates were not recorded.
    pub(crate) first: Option<u8>,
    /// The next one.
    pub(crate) second: Option<u8>,
    /// Experts in all.
    pub(crate) count: u8,
}

/// Who takes each of the `tokens` patches of an image, row by row.
pub(crate) fn who(layer: &Layer<'_>, image: usize, tokens: usize) -> Vec<Taken> {
    let patch = |patch| {
        let ranked = layer.ranked(image * tokens + patch);
        let at = |place: usize| ranked.get(place).map(|(e, _)| *e as u8);
        Taken { first: at(0), second: at(1), count: ranked.len() as u8 }
    };
    (0..tokens).map(patch).collect()
}

/// How many experts of all layers together take each patch.
pub(crate) fn how_many(lens: &Lens<'_>, step: usize, image: usize) -> Vec<u32> {
    let tokens = lens.trace.tokens();
    let mut counts = vec![0; tokens];
    for layer in (0..).map_while(|layer| lens.layer(step, layer)) {
        for (patch, count) in counts.iter_mut().enumerate() {
            *count += layer.mask(image * tokens + patch).count_ones();
        }
    }
    counts
}

/// Which patches an expert takes.
pub(crate) fn taken_by(layer: &Layer<'_>, image: usize, tokens: usize, expert: usize) -> Vec<bool> {
    (0..tokens).map(|patch| layer.takes(image * tokens + patch, expert)).collect()
}

/// Distance of each patch's need to the threshold of an expert in log-odds, the shift included: positive where it is
/// taken. `None` without scores.
pub(crate) fn margins(
    layer: &Layer<'_>,
    image: usize,
    tokens: usize,
    expert: usize,
) -> Option<Vec<f32>> {
    let margin = |patch| {
        let token = image * tokens + patch;
        Some(layer.need(token, expert)? - layer.threshold(expert)?)
    };
    (0..tokens).map(margin).collect()
}

#[cfg(test)]
mod tests {
    use diffmoe::scheduler::Branch;
    use diffmoe::trace::{At, Trace};

    use super::super::tests::{masks, run, scored, trace};
    use super::*;

    fn lens(trace: &Trace) -> Lens<'_> {
        Lens::new(trace, Branch::Conditional, 0.0)
    }

    #[test]
    fn who_names_the_first_the_second_and_the_number() {
        let trace = masks(&[0b1011, 0, 0b1000, 0b0110], 4);
        let layer = lens(&trace).layer(0, 0).unwrap();
        let taken = |first, second, count| Taken { first, second, count };
        let want = [
            taken(Some(0), Some(1), 3),
            taken(None, None, 0),
            taken(Some(3), None, 1),
            taken(Some(1), Some(2), 2),
        ];
        assert_eq!(who(&layer, 0, 4), want);
        assert_eq!(who(&layer, 1, 4), [Taken::default(); 4], "no such image");
    }

    #[test]
    fn the_strongest_expert_is_the_one_with_the_largest_gate() {
        let trace = scored();
        let layer = lens(&trace).layer(0, 0).unwrap();
        let at = At { step: 0, layer: 0, branch: Branch::Conditional };
        for (patch, taken) in who(&layer, 1, 4).iter().enumerate() {
            let gates = trace.gate_probabilities(at, 4 + patch).unwrap();
            let mask = trace.layer(at).unwrap().masks[4 + patch];
            let best = (0..3)
                .filter(|e| mask >> e & 1 == 1)
                .max_by(|a: &usize, b: &usize| gates[*a].total_cmp(&gates[*b]));
            assert_eq!(taken.first.map(usize::from), best, "patch {patch}");
        }
    }

    #[test]
    fn how_many_counts_all_layers() {
        let trace = run(&[&[&[0b11, 0, 0b1, 0], &[0b10, 0b1, 0b111, 0]]], 3);
        assert_eq!(how_many(&lens(&trace), 0, 0), [3, 1, 4, 0]);
        assert_eq!(how_many(&lens(&trace), 1, 0), [0; 4], "no such step");
    }

    #[test]
    fn experts_maps_agree_with_the_trace() {
        let trace = trace();
        let layer = lens(&trace).layer(1, 1).unwrap();
        let at = At { step: 1, layer: 1, branch: Branch::Conditional };
        for image in 0..2 {
            for e in 0..3 {
                let want = trace.expert_map(at, image, e).unwrap();
                assert_eq!(taken_by(&layer, image, 4, e), want);
            }
        }
    }

    #[test]
    fn margins_are_distances_to_the_threshold() {
        let trace = scored();
        let at = At { step: 1, layer: 0, branch: Branch::Unconditional };
        for shift in [0.0, 1.5] {
            let lens = Lens::new(&trace, Branch::Unconditional, shift);
            let layer = lens.layer(1, 0).unwrap();
            let margins = margins(&layer, 1, 4, 2).unwrap();
            for (patch, margin) in margins.iter().enumerate() {
                let want = trace.margin(at, 4 + patch, 2).unwrap() - shift;
                assert!((margin - want).abs() < 1e-5);
                assert_eq!(*margin > 0.0, layer.takes(4 + patch, 2));
            }
        }
        let masks = trace_without_scores();
        assert_eq!(super::margins(&lens_of(&masks), 0, 4, 0), None);
    }

    fn trace_without_scores() -> Trace {
        trace()
    }

    fn lens_of(trace: &Trace) -> Layer<'_> {
        lens(trace).layer(0, 0).unwrap()
    }
}
