//! Colours of Explore beside the theme's: a diverging scale, the hatch that always means nobody, what is taken.

use egui::Color32;

use crate::theme::Look;

/// Over fair share, or taken.
pub(super) const OVER: Color32 = Color32::from_rgb(0xFF, 0xA6, 0x4D);
/// Under fair share, or not taken.
const UNDER: Color32 = Color32::from_rgb(0x74, 0x9E, 0xFF);
/// The other run, and what a muted expert changes.
pub(super) const OTHER: Color32 = Color32::from_rgb(0xFF, 0x9A, 0x3D);

/// Colours that depend on the theme.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ink {
    pub(super) look: Look,
    /// Lines of the hatch.
    pub(super) hatch: Color32,
    /// The middle of the diverging scale.
    neutral: Color32,
    /// A ring around what is chosen.
    pub(super) ring: Color32,
    dark: bool,
}

impl Ink {
    pub(super) fn of(ui: &egui::Ui) -> Self {
        let (look, dark) = (Look::of(ui), ui.visuals().dark_mode);
        let rgb = |dark_rgb: [u8; 3], light: [u8; 3]| {
            let [r, g, b] = if dark { dark_rgb } else { light };
            Color32::from_rgb(r, g, b)
        };
        Self {
            look,
            hatch: rgb([0x5A, 0x63, 0x75], [0xA3, 0xAB, 0xBA]),
            neutral: rgb([0x24, 0x28, 0x34], [0xE4, 0xE7, 0xEE]),
            ring: rgb([0xFF; 3], [0x10, 0x14, 0x1E]),
            dark,
        }
    }

    /// Whether the page is dark.
    pub(super) fn is_dark(self) -> bool {
        self.dark
    }

    /// Blue for -1, the neutral colour for 0, orange for 1.
    pub(super) fn diverging(self, value: f32) -> Color32 {
        let value = value.clamp(-1.0, 1.0);
        let end = if value < 0.0 { UNDER } else { OVER };
        mix(self.neutral, end, value.abs().powf(0.85))
    }

    /// Where a patch lies beside the threshold: orange where it is taken, else blue that fades with the distance.
    pub(super) fn margin(self, margin: f32) -> Color32 {
        if margin > 0.0 {
            return OVER;
        }
        let far = if self.dark { Color32::from_rgb(26, 29, 38) } else { self.neutral };
        mix(far, UNDER, (margin / 3.0).exp().min(1.0))
    }

    /// Bars left of the shift in the histogram.
    pub(super) fn not_taken(self) -> Color32 {
        if self.dark {
            Color32::from_rgb(0x5A, 0x6A, 0x9E)
        } else {
            Color32::from_rgb(0x9C, 0xAC, 0xDC)
        }
    }
}

/// Between two colours, byte by byte.
pub(super) fn mix(from: Color32, to: Color32, share: f32) -> Color32 {
    let part = |a: u8, b: u8| (f32::from(a) + (f32::from(b) - f32::from(a)) * share).round() as u8;
    Color32::from_rgb(part(from.r(), to.r()), part(from.g(), to.g()), part(from.b(), to.b()))
}
