//! The files that cards offer.

use egui::Rect;

/// A file that a card offers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Save {
    /// What is painted in this rectangle, as PNG.
    View(Rect, &'static str),
    /// The same, as SVG.
    Vector(Rect, &'static str),
    /// The image with its overlay at every step, as an animated PNG.
    Steps,
    /// C over noise, as SVG.
    Curve,
    /// The river of the block, as SVG.
    River,
    /// The map of the run, as SVG.
    Map,
    /// C of each step.
    Compute,
    /// Tokens of each expert.
    Loads,
    /// Patches and experts at the step.
    Patches,
    /// The selected patch over the run.
    Story,
    /// Margins of the layer.
    Margins,
    /// Where each expert works, whatever the image.
    Places,
    /// The patches that the expert works on.
    Picks,
    /// The change of the images without each expert.
    Muting,
    /// The atlas of the model, as `diffmoe atlas` writes it.
    Atlas,
    /// The same as a table.
    AtlasTable,
}
