//! The patches of a run that an expert works on: those it needs most where the run recorded scores, else those that
//! it shares with the fewest others.

use super::lens::Lens;

/// A patch of an image.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Pick {
    /// The image.
    pub(crate) image: usize,
    /// The patch, counted row by row.
    pub(crate) patch: usize,
    /// Need minus threshold in log-odds, where it was recorded.
    pub(crate) margin: Option<f32>,
}

/// The best `most` patches that an expert takes at a step, best first, at most `each` of one image.
pub(crate) fn gallery(
    lens: &Lens<'_>,
    step: usize,
    layer: usize,
    expert: usize,
    most: usize,
    each: usize,
) -> Vec<Pick> {
    let tokens = lens.trace.tokens().max(1);
    let Some(layer) = lens.layer(step, layer) else { return Vec::new() };
    // Of a token with several patches, the first stands for all.
    let ([rows, columns], grid) = (lens.trace.grid_at(step as u32), lens.trace.grid());
    let (down, across) = ((grid[0] / rows.max(1)).max(1), (grid[1] / columns.max(1)).max(1));
    let is_first = |token: &usize| {
        let patch = token % tokens;
        (patch / grid[1]).is_multiple_of(down) && (patch % grid[1]).is_multiple_of(across)
    };
    let taken = (0..layer.pool()).filter(is_first).filter(|&token| layer.takes(token, expert));
    let mut picks: Vec<(f32, Pick)> = taken
        .map(|token| {
            let margin = layer.margin(token, expert);
            let merit = margin.unwrap_or_else(|| -(layer.mask(token).count_ones() as f32));
            (merit, Pick { image: token / tokens, patch: token % tokens, margin })
        })
        .collect();
    // Stable: what is equal stays in the order of the tokens.
    picks.sort_by(|a, b| b.0.total_cmp(&a.0));
    let mut of_image = vec![0; lens.trace.images()];
    let fits = |(_, pick): &(f32, Pick)| {
        of_image.get_mut(pick.image).is_some_and(|count| {
            *count += 1;
            *count <= each
        })
    };
    picks.into_iter().filter(fits).map(|(_, pick)| pick).take(most).collect()
}

#[cfg(test)]
mod tests {
    use diffmoe::scheduler::Branch;

    use super::super::tests::{masks, scored};
    use super::*;

    #[test]
    fn patches_come_by_margin() {
        let trace = scored();
        let lens = Lens::new(&trace, Branch::Conditional, 0.0);
        let layer = lens.layer(0, 0).unwrap();
        let picks = gallery(&lens, 0, 0, 1, 99, 99);
        assert_eq!(picks.len(), (0..8).filter(|&token| layer.takes(token, 1)).count());
        for pick in &picks {
            assert_eq!(pick.margin, layer.margin(pick.image * 4 + pick.patch, 1));
            assert!(pick.margin.unwrap() > 0.0);
        }
        assert!(picks.windows(2).all(|pair| pair[0].margin >= pair[1].margin));
        assert_eq!(gallery(&lens, 0, 0, 1, 1, 99), picks[..1]);
    }

    #[test]
    fn a_token_of_several_patches_is_shown_once() {
        let trace = super::super::tests::refined();
        let lens = Lens::new(&trace, Branch::Conditional, 0.0);
        let patches = |step, expert| -> Vec<usize> {
            gallery(&lens, step, 0, expert, 99, 99).iter().map(|pick| pick.patch).collect()
        };
        assert_eq!((patches(0, 0), patches(1, 1)), (vec![0], vec![0, 1]));
    }

    #[test]
    fn without_scores_those_come_first_that_are_shared_least() {
        let trace = masks(&[0b111, 0b001, 0b110, 0b011], 3);
        let lens = Lens::new(&trace, Branch::Conditional, 0.0);
        let patches = |each| -> Vec<usize> {
            gallery(&lens, 0, 0, 0, 9, each).iter().map(|pick| pick.patch).collect()
        };
        assert_eq!(patches(9), [1, 3, 0]);
        assert_eq!(patches(2), [1, 3]);
        assert!(gallery(&lens, 3, 0, 0, 9, 9).is_empty());
    }
}
