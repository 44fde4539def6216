//! Values computed from an atlas for the Labels view: the heat map at the current layer and noise level, thumbnails.

use std::sync::Arc;

use diffmoe::pixels::RgbImage;
use diffmoe::trace::atlas::{Atlas, Thumbnails, band_of};
use egui::{ColorImage, Context, Rect, TextureHandle, TextureOptions, pos2};

use super::data::labels::Heat;
use super::kept::Kept;

/// Longest side of the sheet of small images.
const MOST: u32 = 4096;

/// Which atlas, by its address: atlases stay as long as the session.
type Id = usize;

/// Everything that the tab Labels paints from.
#[derive(Default)]
pub(super) struct AtlasMade {
    heat: Kept<(Id, usize, usize, usize, Option<usize>), Heat>,
    small: Kept<Id, Option<TextureHandle>>,
}

/// The atlas of the run on screen, at the layer and noise level on screen.
#[derive(Clone, Copy)]
pub(super) struct AtlasView<'a> {
    pub(super) atlas: &'a Atlas,
    /// Place of the table that is shown.
    pub(super) table: usize,
    pub(super) band: usize,
    pub(super) heat: &'a Heat,
    small: Option<&'a TextureHandle>,
}

impl AtlasMade {
    /// Brings what is on screen up to date; returns how much was made anew.
    pub(super) fn update(
        &mut self,
        ctx: &Context,
        atlas: &Arc<Atlas>,
        (table, block, noise): (usize, usize, f32),
        by: Option<usize>,
    ) -> u64 {
        let id = Arc::as_ptr(atlas) as Id;
        let table = table.min(atlas.tables.len() - 1);
        let band = band_of(noise, atlas.passes.len());
        let layer = atlas.blocks.iter().position(|b| *b == block).unwrap_or(usize::MAX);
        let made = [
            self.heat.update((id, table, band, layer, by), || {
                Heat::of(atlas, &atlas.tables[table], (band, layer), by)
            }),
            self.small.update(id, || {
                let sheet = sheet(atlas.thumbnails.as_ref()?)?;
                Some(ctx.load_texture("labels", sheet, TextureOptions::LINEAR))
            }),
        ];
        made.into_iter().map(u64::from).sum()
    }

    /// What the view paints from; nothing before the first update.
    pub(super) fn view<'a>(&'a self, atlas: &'a Atlas) -> Option<AtlasView<'a>> {
        let &(id, table, band, ..) = self.heat.key()?;
        (std::ptr::from_ref(atlas) as Id == id).then(|| AtlasView {
            atlas,
            table,
            band,
            heat: &self.heat,
            small: self.small.as_ref(),
        })
    }
}

impl AtlasView<'_> {
    /// The small image of a label: its texture and place there.
    pub(super) fn image(&self, label: usize) -> Option<(&TextureHandle, Rect)> {
        let thumbnails = self.atlas.thumbnails.as_ref().filter(|_| self.table == 0)?;
        let columns = thumbnails.columns.max(1);
        let rows = self.atlas.tables[0].labels.len().div_ceil(columns);
        let (x, y) = ((label % columns) as f32, (label / columns) as f32);
        let at = |x: f32, y: f32| pos2(x / columns as f32, y / rows as f32);
        Some((self.small?, Rect::from_min_max(at(x, y), at(x + 1.0, y + 1.0))))
    }

    /// Noise levels of the band, for people.
    pub(super) fn levels(&self) -> String {
        let [from, to] = self.atlas.levels(self.band);
        format!("{from}–{to}")
    }
}

/// The sheet of thumbnails; `None` unless it is a PNG that fits into a texture.
fn sheet(thumbnails: &Thumbnails) -> Option<ColorImage> {
    let most = u64::from(MOST) * u64::from(MOST);
    let image = RgbImage::read_png_within(&base64::decode(&thumbnails.png).ok()?, most).ok()?;
    let is_small = image.width().max(image.height()) <= MOST;
    is_small.then(|| {
        let size = [image.width() as usize, image.height() as usize];
        ColorImage::from_rgb(size, image.pixels())
    })
}

#[cfg(test)]
mod tests {
    use super::super::data::labels::tests::atlas;
    use super::*;

    #[test]
    fn sheets_are_read_and_what_is_none_is_left_out() {
        let image = RgbImage::from_raw(2, 1, vec![9, 8, 7, 255, 0, 128]).unwrap();
        let png = base64::encode(image.to_png(&[]).unwrap());
        let thumbnails = |png: String| Thumbnails { size: [1, 1], columns: 2, png };
        let read = sheet(&thumbnails(png)).unwrap();
        assert_eq!((read.size, read.pixels[1]), ([2, 1], egui::Color32::from_rgb(255, 0, 128)));
        assert!(sheet(&thumbnails("?".into())).is_none());
        assert!(sheet(&thumbnails(base64::encode("hello"))).is_none());
    }

    #[test]
    fn the_view_is_made_once_for_each_place() {
        let ctx = Context::default();
        let (atlas, mut made) = (Arc::new(atlas()), AtlasMade::default());
        assert!(made.view(&atlas).is_none());
        assert_eq!(made.update(&ctx, &atlas, (0, 1, 0.1), None), 2);
        assert_eq!(made.update(&ctx, &atlas, (0, 1, 0.05), None), 0, "the same band");
        let view = made.view(&atlas).unwrap();
        assert_eq!((view.band, view.levels().as_str(), view.heat.rows.len()), (3, "0.25–0", 3));
        assert!(view.image(0).is_none());
        assert_eq!(made.update(&ctx, &atlas, (5, 1, 0.9), Some(1)), 1);
        made.update(&ctx, &atlas, (0, 9, 0.9), None);
        assert!(made.view(&atlas).unwrap().heat.rows.is_empty(), "no such block");
    }
}
