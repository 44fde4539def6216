//! What was made of a run for the views: counts, maps and textures, each kept until what it depends on changes.

use egui::{Context, TextureHandle, TextureOptions};

use super::colours::Ink;
use super::data::film::frames_of_film;
use super::data::gallery::{Pick, gallery};
use super::data::lens::{Lens, Pass, Target, WhatIf};
use super::data::margins::{Histogram, histogram};
use super::data::place::{Place, place};
use super::data::story::{Story, story};
use super::data::tally::Tally;
use super::data::tokens::{self, Taken};
use super::images::{Image, frame_image, image_at, sheet};
use super::kept::Kept;
use super::now::Now;
use super::overlay::Patches;
use super::paint;
use super::pair::{self, Apart, Pair, Side};
use super::pattern::{EIGHT, Patterns};
use crate::palette;
use crate::session::{Card, Overlay, Record, Selection, Version};

/// Pixels along a side of a small image, at most.
const SMALL: usize = 128;
/// Pixels along a side of the image on the stage, at most.
const LARGE: usize = 1024;
/// Images of a row on a sheet of experts.
pub(super) const ACROSS: usize = 8;
/// Patches of the gallery, at most.
pub(super) const MOST_PICKS: usize = 12;

/// A run as far as it is: another run, another step or another rendering changes it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct RunKey {
    id: u64,
    forwards: usize,
    images: Version,
}

impl RunKey {
    pub(super) fn of(record: &Record) -> Self {
        let last = record.frames.len().saturating_sub(1);
        let (id, forwards) = (record.id, record.trace.forwards().len());
        Self { id, forwards, images: record.version(last) }
    }
}

/// A kind of pass of a run with thresholds that are moved.
type PassKey = (RunKey, Pass, WhatIf);
/// A step, layer and image of it.
type PlaceKey = (PassKey, usize, usize, usize);
/// A pass at a step and layer, and the expert that is meant.
type HistogramKey = (RunKey, Pass, usize, usize, Option<usize>);
type Texture = Option<TextureHandle>;

/// Everything that the views paint from.
#[derive(Default)]
pub(super) struct Made {
    pub(super) hatch: Texture,
    /// For runs with more than eight experts.
    pub(super) patterns: Option<Patterns>,
    /// Noise level of each step.
    pub(super) noise: Kept<RunKey, Vec<f32>>,
    /// Counts of the pass that is shown, with the shift.
    pub(super) tally: Kept<PassKey, Tally>,
    /// Counts of the other pass, with the shift; empty without guidance.
    pub(super) other: Kept<PassKey, Tally>,
    /// Counts of the pass that is shown, as it was in the run.
    pub(super) plain: Kept<PassKey, Tally>,
    pub(super) who: Kept<PlaceKey, Vec<Taken>>,
    pub(super) many: Kept<(PassKey, usize, usize), Vec<u32>>,
    /// Margins of the chosen expert.
    pub(super) margins: Kept<(PlaceKey, usize), Option<Vec<f32>>>,
    /// For each expert which patches it takes.
    pub(super) taken: Kept<PlaceKey, Vec<Vec<bool>>>,
    pub(super) histogram: Kept<HistogramKey, Option<Histogram>>,
    pub(super) story: Kept<(PassKey, usize, Option<usize>), Story>,
    pub(super) place: Kept<(PassKey, usize, usize), Option<Place>>,
    /// The shares as colours, an expert beside the other.
    pub(super) places: Kept<(PassKey, usize, usize), Texture>,
    pub(super) gallery: Kept<(PassKey, usize, usize, usize), Vec<Pick>>,
    pub(super) stage: Kept<(PlaceKey, Overlay, usize, bool), Texture>,
    /// The image at the step without anything over it.
    pub(super) plain_image: Kept<(RunKey, usize, usize), Texture>,
    pub(super) thumbs: Kept<(PlaceKey, bool), Texture>,
    /// Images of the film, the result last, side by side.
    pub(super) film: Kept<(RunKey, usize, Vec<usize>), Texture>,
    /// The last step of each image, side by side.
    pub(super) results: Kept<RunKey, Texture>,
    /// A, B and where they differ, for the image on screen.
    pub(super) muted: Kept<(u64, u64, usize), Vec<Texture>>,
    /// Change of each image from A to B, of 255.
    pub(super) changes: Kept<(u64, u64), Vec<f32>>,
    /// C of B by step, in the pass that is shown.
    pub(super) without: Kept<(u64, Pass), Vec<Option<f32>>>,
    /// Of run B: its step for each column of the run that it is compared with.
    pub(super) columns: Kept<(RunKey, RunKey), Vec<usize>>,
    /// Of run B: how far the image on screen is from that of A.
    pub(super) apart: Kept<(RunKey, RunKey, usize, usize), Apart>,
    /// Of run B: where they are.
    pub(super) difference: Kept<(RunKey, RunKey, usize, usize), Texture>,
    /// How often something was made: what does not change is not made again.
    pub(super) makings: u64,
}

#[expect(clippy::unnecessary_wraps, reason = "what is kept may be missing")]
fn upload(ctx: &Context, name: &str, image: egui::ColorImage) -> Texture {
    Some(ctx.load_texture(name, image, TextureOptions::NEAREST))
}

impl Made {
    /// Brings everything that is on screen up to date.
    pub(super) fn update(
        &mut self,
        ctx: &Context,
        record: &Record,
        now: &Now,
        selection: &Selection,
        ink: Ink,
    ) {
        if self.hatch.is_none() {
            self.hatch = Some(paint::hatch_texture(ctx));
        }
        if self.patterns.is_none() && record.trace.experts() > EIGHT {
            self.patterns = Some(Patterns::new(ctx));
        }
        let last = record.frames.len().saturating_sub(1);
        let trace = &record.trace;
        let run = RunKey::of(record);
        let lens = Lens { trace, pass: now.pass, what_if: now.what_if };
        let pass = (run, now.pass, now.what_if);
        let mut makings = 0;
        let mut count = |made: bool| makings += u64::from(made);
        count(self.noise.update(run, || record.noise_levels()));
        count(self.results.update(run, || {
            if record.is_traced() {
                // Without images: how many experts take each patch in the end.
                let step = (trace.steps() as usize).saturating_sub(1);
                let images = (0..record.labels.len()).map(|i| loads(&lens, step, i));
                return upload(ctx, "results", sheet(&images.collect::<Vec<_>>(), usize::MAX));
            }
            let images = (0..record.labels.len()).filter_map(|i| frame_image(record, last, i));
            let images: Vec<_> = images.map(|image| image.thinned(SMALL).plain()).collect();
            upload(ctx, "results", sheet(&images, images.len()))
        }));
        count(self.plain_image.update((run, now.step, now.image), || {
            upload(ctx, "image", image_at(record, now.step, now.image)?.thinned(LARGE).plain())
        }));
        let frames = frames_of_film(record.steps() as usize);
        count(self.film.update((run, now.image, frames.clone()), || {
            let images = frames.iter().map(|&step| image_at(record, step, now.image));
            let result = frame_image(record, last, now.image);
            let size = result.as_ref()?.size;
            let of_size = |image: Option<Image>| {
                let nothing = Image { values: vec![-1.0; 3 * size[0] * size[1]], size };
                // Decoded images are larger than previews; all cells of the sheet have one size.
                image.map_or(nothing, |image| image.scaled_to(size)).thinned(SMALL).plain()
            };
            let cells: Vec<_> = images.map(of_size).chain([of_size(result.clone())]).collect();
            upload(ctx, "film", sheet(&cells, cells.len()))
        }));
        if !trace.blocks().is_empty() {
            count(self.tally.update(pass, || Tally::of(&lens)));
            count(self.plain.update((run, now.pass, WhatIf::default()), || {
                Tally::of(&Lens { what_if: WhatIf::default(), ..lens })
            }));
            let other = lens.other();
            count(self.other.update((run, other.pass, now.what_if), || Tally::of(&other)));
            self.update_place(ctx, record, now, selection, ink, pass, &mut count);
        }
        self.makings += makings;
    }

    /// What compares a run with the one without an expert.
    pub(super) fn update_pair(&mut self, ctx: &Context, runs: Option<Pair<'_>>, now: &Now) {
        let Some((a, b)) = runs.and_then(|pair| Some((pair.a, pair.b?))) else {
            self.without.update((0, now.pass), Vec::new);
            return;
        };
        let made = [
            self.muted.update((a.id, b.id, now.image), || pair::textures(ctx, a, b, now.image)),
            self.changes.update((a.id, b.id), || pair::changes(a, b)),
            self.without.update((b.id, now.pass), || {
                let what_if = WhatIf::default();
                let lens = Lens { trace: &b.trace, pass: now.pass, what_if };
                Tally::of(&lens).capacities()
            }),
        ];
        self.makings += made.into_iter().filter(|made| *made).count() as u64;
    }

    /// As the makings of run B: how it lies beside run A.
    pub(super) fn update_beside(&mut self, ctx: &Context, a: &Side<'_>, b: &Side<'_>) {
        let keys = (RunKey::of(a.record), RunKey::of(b.record), a.step, a.image);
        let has_image = a.image < a.record.labels.len().min(b.record.labels.len());
        let made = [
            self.apart.update(keys, || if has_image { Apart::of(a, b) } else { Apart::default() }),
            self.difference.update(keys, || {
                let image = pair::difference_at(a, b).filter(|_| has_image)?;
                upload(ctx, "difference", image)
            }),
        ];
        self.makings += made.into_iter().filter(|made| *made).count() as u64;
    }

    /// What depends on the step, layer and image.
    #[expect(
        clippy::too_many_arguments,
        reason = "one list of keys and sources, split in two for its length"
    )]
    fn update_place(
        &mut self,
        ctx: &Context,
        record: &Record,
        now: &Now,
        selection: &Selection,
        ink: Ink,
        pass: PassKey,
        count: &mut impl FnMut(bool),
    ) {
        let trace = &record.trace;
        let lens = Lens { trace, pass: now.pass, what_if: now.what_if };
        // Outside the guidance interval there is no unconditional pass, and nothing but the image to show.
        let layer = lens.layer(now.step, now.layer);
        let (tokens, grid, expert) = (trace.tokens(), trace.grid(), now.some_expert());
        let place_key = (pass, now.step, now.layer, now.image);
        count(self.who.update(place_key, || {
            layer.as_ref().map_or_else(Vec::new, |layer| tokens::who(layer, now.image, tokens))
        }));
        if now.overlay == Overlay::HowMany {
            let key = (pass, now.step, now.image);
            count(self.many.update(key, || match layer {
                Some(_) => tokens::how_many(&lens, now.step, now.image),
                None => Vec::new(),
            }));
        }
        if now.overlay == Overlay::Margin {
            count(self.margins.update((place_key, expert), || {
                tokens::margins(layer.as_ref()?, now.image, tokens, expert)
            }));
        }
        let experts = trace.experts();
        count(self.taken.update(place_key, || {
            let layer = layer.iter().flat_map(|layer| (0..experts).map(move |e| (layer, e)));
            layer.map(|(layer, e)| tokens::taken_by(layer, now.image, tokens, e)).collect()
        }));
        let of_expert = match now.what_if.of {
            Target::Expert(l, e) if l == now.layer => Some(e),
            _ => None,
        };
        let key = (pass.0, now.pass, now.step, now.layer, of_expert);
        count(self.histogram.update(key, || histogram(layer.as_ref()?, of_expert)));
        count(self.story.update((pass, now.image, now.patch), || {
            now.patch.map_or_else(Vec::new, |patch| story(&lens, now.image, patch))
        }));
        let of_margin = if now.overlay == Overlay::Margin { expert } else { 0 };
        let key = (place_key, now.overlay, of_margin, ink.is_dark());
        let patches = match now.overlay {
            _ if layer.is_none() => Patches::Plain,
            Overlay::Image => Patches::Plain,
            Overlay::Who => Patches::Who(&self.who),
            Overlay::HowMany => Patches::HowMany(&self.many, trace.blocks().len()),
            Overlay::Margin => self.margins.as_deref().map_or(Patches::Plain, Patches::Margins),
        };
        count(self.stage.update(key, || {
            let image = image_at(record, now.step, now.image)?.thinned(LARGE);
            upload(ctx, "stage", patches.over(&image, grid, ink))
        }));
        let taken = &self.taken;
        count(self.thumbs.update((place_key, ink.is_dark()), || {
            let image = image_at(record, now.step, now.image)?.thinned(SMALL);
            let lit = |(e, taken): (usize, &Vec<bool>)| image.lit(grid, taken, e, ink);
            let images: Vec<_> = taken.iter().enumerate().map(lit).collect();
            images.first()?;
            upload(ctx, "experts", sheet(&images, ACROSS))
        }));
        match selection.card {
            Card::Place => {
                let steps = steps_around(now.step, trace.steps() as usize);
                let key = (pass, now.step, now.layer);
                count(self.place.update(key, || place(&lens, now.layer, steps)));
                let shares = self.place.as_ref();
                count(self.places.update(key, || {
                    upload(ctx, "places", sheet(&shares_of(shares?, grid), ACROSS))
                }));
            }
            Card::Gallery => {
                let each = MOST_PICKS.div_ceil(trace.images().max(1)).max(2);
                count(self.gallery.update((pass, now.step, now.layer, expert), || {
                    gallery(&lens, now.step, now.layer, expert, MOST_PICKS, each)
                }));
            }
            _ => {}
        }
    }
}

/// How many experts of all layers take each patch, as a small image.
fn loads(lens: &Lens<'_>, step: usize, image: usize) -> egui::ColorImage {
    let [rows, columns] = lens.trace.grid();
    let layers = lens.trace.blocks().len().max(1) as f32;
    let counts = tokens::how_many(lens, step, image);
    let colour = |count: &u32| palette::ramp(*count as f32 / layers / 2.0);
    egui::ColorImage::new([columns, rows], counts.iter().map(colour).collect())
}

/// Shares of patches as small images, one for each expert.
fn shares_of(place: &Place, [rows, columns]: [usize; 2]) -> Vec<egui::ColorImage> {
    let image = |shares: &Vec<f32>| {
        let pixels = shares.iter().map(|&share| palette::ramp(share)).collect();
        egui::ColorImage::new([columns, rows], pixels)
    };
    place.shares.iter().map(image).collect()
}

/// For each noise level of a run the step of another run whose level is nearest, the first of several.
pub(super) fn nearest_steps(levels: &[f32], others: &[f32]) -> Vec<usize> {
    let nearest = |level: &f32| {
        let away = |step: &usize| (others[*step] - level).abs();
        (0..others.len()).min_by(|a, b| away(a).total_cmp(&away(b))).unwrap_or(0)
    };
    levels.iter().map(nearest).collect()
}

/// The steps whose places are counted together: a third of the run around a step.
pub(super) fn steps_around(step: usize, steps: usize) -> std::ops::Range<usize> {
    let reach = steps / 6;
    step.saturating_sub(reach)..(step + reach + 1).min(steps)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bands_stay_in_the_run() {
        assert_eq!((steps_around(0, 10), steps_around(9, 10)), (0..2, 8..10));
        assert_eq!(steps_around(0, 1), 0..1);
    }

    #[test]
    fn runs_are_compared_at_the_nearest_noise_level() {
        let levels = |steps: usize| -> Vec<f32> {
            (0..steps).map(|step| 1.0 - step as f32 / steps as f32).collect()
        };
        assert_eq!(nearest_steps(&levels(4), &levels(4)), [0, 1, 2, 3]);
        assert_eq!(nearest_steps(&levels(4), &levels(8)), [0, 2, 4, 6]);
        assert_eq!(nearest_steps(&levels(4), &levels(2)), [0, 0, 1, 1]);
        assert_eq!(nearest_steps(&levels(2), &[]), [0, 0]);
    }
}
