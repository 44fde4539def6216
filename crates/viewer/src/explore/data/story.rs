//! What happened to one patch: which experts took it, in every layer at every step.

use super::lens::Lens;

/// The experts of a patch with their gates, strongest first.
pub(crate) type Takers = Vec<(usize, Option<f32>)>;
/// Those of each layer at each step, `[layers][steps]`; `None` where the step has no such pass.
pub(crate) type Story = Vec<Vec<Option<Takers>>>;

/// Follows a patch through the steps that have arrived.
pub(crate) fn story(lens: &Lens<'_>, image: usize, patch: usize) -> Story {
    let token = image * lens.trace.tokens() + patch;
    let steps = lens.trace.steps() as usize;
    let layers = lens.trace.blocks().len();
    let at = |layer| move |step| lens.layer(step, layer).map(|layer| layer.ranked(token));
    (0..layers).map(|layer| (0..steps).map(at(layer)).collect()).collect()
}

#[cfg(test)]
mod tests {
    use diffmoe::scheduler::Branch;

    use super::super::tests::{gapped, run};
    use super::*;

    #[test]
    fn a_patch_is_followed_through_layers_and_steps() {
        let trace =
            run(&[&[&[0, 0b1, 0, 0], &[0, 0b11, 0, 0]], &[&[0, 0, 0, 0], &[0, 0b10, 0, 0]]], 2);
        let lens = Lens::new(&trace, Branch::Conditional, 0.0);
        let story = story(&lens, 0, 1);
        let experts: Vec<Vec<Vec<usize>>> = story
            .iter()
            .map(|row| {
                row.iter().flatten().map(|at| at.iter().map(|(e, _)| *e).collect()).collect()
            })
            .collect();
        assert_eq!(experts, [vec![vec![0], vec![]], vec![vec![0, 1], vec![1]]]);
    }

    #[test]
    fn nobody_is_not_the_same_as_no_pass() {
        let trace = gapped();
        let lens = Lens::new(&trace, Branch::Unconditional, 0.0);
        let nobody = Some(Vec::new());
        let first = Some(vec![(0, None)]);
        let want = [None, first, None, nobody.clone(), nobody, None];
        assert_eq!(story(&lens, 0, 1), [want.to_vec()]);
    }
}
