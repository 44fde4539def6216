//! Small traces for the tests of the views.

use diffmoe::engine::{ForwardRouting, LayerRouting, Scores};
use diffmoe::model::Config;
use diffmoe::scheduler::Branch;
use diffmoe::trace::{Trace, logit};

pub(crate) use crate::views::tests::trace;

/// The same trace with scores that lead to its masks.
pub(crate) fn scored() -> Trace {
    let mut state = 99_u32;
    let mut spread = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 16) as f32 / 65_536.0
    };
    let thresholds = vec![0.25, 0.5, 0.75];
    let mut scored = Trace::new(&crate::views::tests::config(), vec![vec!["a".into(), "b".into()]]);
    for forward in trace().forwards() {
        let mut forward = forward.clone();
        for layer in &mut forward.layers {
            let (mut gate, mut need) = (Vec::new(), Vec::new());
            for mask in &layer.masks {
                for (e, &threshold) in thresholds.iter().enumerate() {
                    let distance = 0.1 + 9.0 * spread();
                    let sign = if mask >> e & 1 == 1 { 1.0 } else { -1.0 };
                    need.push(half::f16::from_f32(logit(threshold) + sign * distance));
                    gate.push(half::f16::from_f32(4.0 * spread() - 2.0));
                }
            }
            layer.scores = Some(Scores { gate, need, thresholds: thresholds.clone() });
        }
        scored.extend(vec![forward]);
    }
    scored
}

/// One step of one layer: an image of 2×2 tokens with these masks.
pub(crate) fn masks(masks: &[u64], experts: usize) -> Trace {
    run(&[&[masks]], experts)
}

/// Steps of layers of masks, over images of 2×2 tokens, conditional passes alone.
pub(crate) fn run(steps: &[&[&[u64]]], experts: usize) -> Trace {
    let config = Config { num_experts: experts, ..crate::views::tests::config() };
    let mut trace = Trace::new(&config, vec![vec!["a".into()]]);
    for (step, layers) in steps.iter().enumerate() {
        let layers = layers.iter().enumerate().map(|(l, masks)| LayerRouting {
            block: 2 * l + 1,
            masks: masks.to_vec(),
            scores: None,
        });
        trace.extend(vec![ForwardRouting {
            step: step as u32,
            time: step as f32 / steps.len() as f32,
            branch: Branch::Conditional,
            scale: 1,
            layers: layers.collect(),
        }]);
    }
    trace
}

/// Two steps of one layer: the first with one token of 2×2 patches, the second with four tokens.
pub(crate) fn refined() -> Trace {
    let whole = run(&[&[&[0b001; 4]], &[&[0b010, 0b010, 0, 0b001]]], 3);
    let mut refined = run(&[], 3);
    refined.extend(
        whole
            .forwards()
            .iter()
            .cloned()
            .map(|mut forward| {
                forward.scale = if forward.step == 0 { 2 } else { 1 };
                forward
            })
            .collect(),
    );
    refined
}

/// Six steps of one layer, one image of 2×2 tokens. Unconditional passes in the steps 1, 3 and 4, with C 0.75, 0.5 and
/// 0.25: guidance with gaps.
pub(crate) fn gapped() -> Trace {
    let with: [&[&[u64]]; 6] = [
        &[&[0b001, 0b010, 0b100, 0b001]],
        &[&[0b001, 0b010, 0, 0b001]],
        &[&[0b011, 0b010, 0, 0b001]],
        &[&[0b001, 0b010, 0, 0]],
        &[&[0b001, 0b110, 0, 0]],
        &[&[0b001, 0b110, 0, 0b001]],
    ];
    let without: [&[u64]; 6] =
        [&[], &[0b001, 0b001, 0, 0b010], &[], &[0b001, 0, 0, 0b010], &[0b100, 0, 0, 0], &[]];
    let mut gapped = run(&[], 3);
    for (forward, masks) in run(&with, 3).forwards().iter().zip(without) {
        let mut both = vec![forward.clone()];
        if !masks.is_empty() {
            let mut other = forward.clone();
            other.branch = Branch::Unconditional;
            other.layers[0].masks = masks.to_vec();
            both.push(other);
        }
        gapped.extend(both);
    }
    gapped
}
