//! The overlays of the stage: what the patches of an image are covered with.

use egui::ColorImage;

use super::colours::Ink;
use super::data::tokens::Taken;
use super::images::{Cover, Image};
use crate::palette;

/// What an overlay shows of each patch.
#[derive(Clone, Copy)]
pub(super) enum Patches<'a> {
    /// Nothing: the image as it is.
    Plain,
    /// The strongest expert.
    Who(&'a [Taken]),
    /// Number of experts over all blocks, and how many blocks those are.
    HowMany(&'a [u32], usize),
    /// Distance of an expert's need from its threshold, in log-odds.
    Margins(&'a [f32]),
}

impl Patches<'_> {
    /// An image under the overlay; `grid` is rows and columns of patches.
    pub(super) fn over(self, image: &Image, grid: [usize; 2], ink: Ink) -> ColorImage {
        match self {
            Self::Plain => image.plain(),
            Self::Who(who) => image.covered(grid, |patch| {
                let first = who.get(patch).and_then(|taken| taken.first);
                first.map_or(Cover::Solid(ink.look.well), |e| {
                    Cover::Tint(palette::expert(usize::from(e)))
                })
            }),
            Self::HowMany(many, blocks) => image.covered(grid, |patch| {
                let experts = many.get(patch).copied().unwrap_or(0) as f32;
                Cover::Tint(palette::ramp(experts / blocks.max(1) as f32 / 2.0))
            }),
            Self::Margins(margins) => image.covered(grid, |patch| {
                Cover::Tint(ink.margin(margins.get(patch).copied().unwrap_or(0.0)))
            }),
        }
    }
}
