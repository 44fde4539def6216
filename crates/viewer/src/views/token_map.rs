//! The token map: how many experts took each patch of the images, or which patches one expert took.

use egui::{Color32, ColorImage};

use crate::palette;
use diffmoe::trace::{At, Trace};

/// What lies over the images.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Overlay {
    /// Nothing.
    Off,
    /// How many experts took each patch.
    #[default]
    Count,
    /// The patches of one expert.
    Expert(usize),
}

/// Over the patches that the chosen expert did not take: a colour alone would drown in an image of that colour.
const VEIL: Color32 = Color32::from_black_alpha(215);

/// Over the patches that it took.
fn tint(expert: usize) -> Color32 {
    palette::expert(expert).gamma_multiply(0.45)
}

/// Which expert took which token at one place of the trace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenMap {
    /// Rows of patches in an image.
    pub rows: usize,
    /// Patches in a row.
    pub columns: usize,
    /// Images in the pool.
    pub images: usize,
    /// For each token one bit per expert, `[B·T]`.
    masks: Vec<u64>,
}

/// The map at one place of the trace; `None` where the run has not been yet.
pub fn token_map(trace: &Trace, at: At) -> Option<TokenMap> {
    let masks = &trace.layer(at)?.masks;
    let [rows, columns] = trace.grid();
    if masks.is_empty() {
        return None;
    }
    let images = masks.len() / (rows * columns);
    Some(TokenMap { rows, columns, images, masks: masks.clone() })
}

impl TokenMap {
    /// The experts of the patch of `image` at column `x` and row `y`, one bit each.
    pub fn mask(&self, image: usize, x: usize, y: usize) -> u64 {
        self.masks.get((image * self.rows + y) * self.columns + x).copied().unwrap_or(0)
    }

    /// The most experts that any patch has, at least 1: the end of the colour scale.
    pub fn most(&self) -> u32 {
        self.masks.iter().map(|mask| mask.count_ones()).max().unwrap_or(0).max(1)
    }

    /// The map as an image, one pixel a patch, `across` images in a row.
    pub(crate) fn image(&self, overlay: Overlay, across: usize) -> ColorImage {
        let across = across.max(1);
        let down = self.images.div_ceil(across).max(1);
        let size = [across * self.columns, down * self.rows];
        let mut image = ColorImage::filled(size, Color32::TRANSPARENT);
        let (most, width) = (self.most() as f32, image.size[0]);
        for index in 0..self.images {
            for y in 0..self.rows {
                for x in 0..self.columns {
                    let mask = self.mask(index, x, y);
                    let bit = |expert: usize| mask.checked_shr(expert as u32).unwrap_or(0) & 1;
                    let colour = match overlay {
                        Overlay::Off => Color32::TRANSPARENT,
                        Overlay::Count => palette::ramp(mask.count_ones() as f32 / most),
                        Overlay::Expert(expert) if bit(expert) == 1 => tint(expert),
                        Overlay::Expert(_) => VEIL,
                    };
                    let left = index % across * self.columns + x;
                    image.pixels[(index / across * self.rows + y) * width + left] = colour;
                }
            }
        }
        image
    }
}

/// The experts of a patch, in words.
pub fn sentence(mask: u64) -> String {
    let experts: Vec<_> =
        (0..u64::BITS).filter(|e| mask >> e & 1 == 1).map(|e| e.to_string()).collect();
    match experts.as_slice() {
        [] => "no expert".to_owned(),
        [one] => format!("expert {one}"),
        many => format!("{} experts: {}", many.len(), many.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::views::tests::{config, exported_passes, trace};
    use diffmoe::engine::{ForwardRouting, LayerRouting};
    use diffmoe::model::Config;
    use diffmoe::scheduler::Branch;

    const AT: At = At { step: 1, layer: 1, branch: Branch::Unconditional };

    #[test]
    fn the_map_agrees_with_the_exported_masks() {
        let map = token_map(&trace(), AT).unwrap();
        assert_eq!((map.rows, map.columns, map.images), (2, 2, 2));
        let exported = &exported_passes(1, Branch::Unconditional)[0]["layers"][1]["masks"];
        let mut most = 1;
        for token in 0..8 {
            let mask = map.mask(token / 4, token % 2, token / 2 % 2);
            assert_eq!(exported[token], mask, "token {token}");
            most = most.max(mask.count_ones());
        }
        assert_eq!(map.most(), most);
    }

    #[test]
    fn patches_land_where_they_belong() {
        let mut map = token_map(&trace(), AT).unwrap();
        // Second image, lower left patch, expert 2.
        map.masks.fill(0);
        map.masks[4 + 2] = 0b100;
        assert_eq!(map.mask(1, 0, 1), 0b100);
        let image = map.image(Overlay::Expert(2), 2);
        assert_eq!(image.size, [4, 2]);
        assert_eq!(image.pixels[4 + 2], tint(2));
        assert_eq!(image.pixels.iter().filter(|p| **p != VEIL).count(), 1);
        let counts = map.image(Overlay::Count, 1);
        assert_eq!(counts.size, [2, 4]);
        assert_eq!(counts.pixels[3 * 2], palette::ramp(1.0));
        assert_eq!(map.image(Overlay::Expert(40), 1).pixels, vec![VEIL; 8], "no such expert");
    }

    #[test]
    fn patches_of_a_wide_image_land_where_they_belong() {
        let config = Config { input_size: [2, 8], ..config() };
        let mut trace = Trace::new(&config, vec![vec!["a".into(), "b".into()]]);
        let masks: Vec<u64> = (0..8).map(|token| u64::from(token == 6)).collect();
        let layers = vec![LayerRouting { block: 1, masks, scores: None }];
        let at = At { step: 0, layer: 0, branch: Branch::Conditional };
        trace.extend(vec![ForwardRouting {
            step: 0,
            time: 0.0,
            branch: at.branch,
            scale: 1,
            layers,
        }]);
        let map = token_map(&trace, at).unwrap();
        // One row of four patches, two images; the third patch of the second has an expert.
        assert_eq!((map.rows, map.columns, map.images), (1, 4, 2));
        assert_eq!((map.mask(1, 2, 0), map.mask(0, 2, 0)), (1, 0));
        let image = map.image(Overlay::Expert(0), 1);
        assert_eq!(image.size, [4, 2]);
        assert_eq!(image.pixels[4 + 2], tint(0));
        assert_eq!(map.image(Overlay::Expert(0), 2).size, [8, 1]);
    }

    #[test]
    fn patches_are_put_in_words() {
        assert_eq!(sentence(0), "no expert");
        assert_eq!(sentence(0b1000), "expert 3");
        assert_eq!(sentence(0b1011), "3 experts: 0, 1, 3");
    }

    #[test]
    fn what_is_not_there_yet_is_nothing() {
        assert_eq!(token_map(&trace(), At { step: 9, ..AT }), None);
        assert_eq!(token_map(&trace(), At { layer: 9, ..AT }), None);
    }
}
