//! What happened to one patch: which experts took it, in every layer at every step.

use super::lens::Lens;

/// The experts of the patch with their gates, strongest first, `[layers][steps]`.
pub(crate) type Story = Vec<Vec<Vec<(usize, Option<f32>)>>>;

/// Follows a patch through the steps that have arrived.
pub(crate) fn story(lens: &Lens<'_>, image: usize, patch: usize) -> Story {
    let token = image * lens.trace.tokens() + patch;
    let steps = lens.trace.steps() as usize;
    let layers = lens.trace.blocks().len();
    let at = |layer| move |step| lens.layer(step, layer).map(|layer| layer.ranked(token));
    (0..layers).map(|layer| (0..steps).map_while(at(layer)).collect()).collect()
}

#[cfg(test)]
mod tests {
    use diffmoe::scheduler::Branch;

    use super::super::tests::run;
    use super::*;

    #[test]
    fn a_patch_is_followed_through_layers_and_steps() {
        let trace =
            run(&[&[&[0, 0b1, 0, 0], &[0, 0b11, 0, 0]], &[&[0, 0, 0, 0], &[0, 0b10, 0, 0]]], 2);
        let lens = Lens::new(&trace, Branch::Conditional, 0.0);
        let story = story(&lens, 0, 1);
        let experts: Vec<Vec<Vec<usize>>> = story
            .iter()
            .map(|row| row.iter().map(|at| at.iter().map(|(e, _)| *e).collect()).collect())
            .collect();
        assert_eq!(experts, [vec![vec![0], vec![]], vec![vec![0, 1], vec![1]]]);
    }
}
