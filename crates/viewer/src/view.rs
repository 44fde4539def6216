//! The current view: step, image and layer; and its view-models and textures, cached until one of them changes.

use std::sync::Arc;

use egui::{Context, TextureHandle, TextureOptions};

use super::session::{Controls, Record, Version};
use super::views::capacity::{self, Curve};
use super::views::experts::{self, Load};
use super::views::image_grid::{self, Grid};
use super::views::token_map::{self, Overlay, TokenMap};
use diffmoe::model::Config;
use diffmoe::scheduler::Branch;
use diffmoe::trace::At;

/// The part of a narrow window below the image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(super) enum Tab {
    #[default]
    Draw,
    Routing,
    Model,
}

/// The two modes of the app.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(super) enum Mode {
    /// Settings, images, and a few plots.
    #[default]
    Draw,
    /// What every expert does.
    Explore,
}

/// How saved images are enlarged.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Enlarge {
    /// `None` for the usual.
    pub(super) scale: Option<u32>,
    pub(super) smooth: bool,
}

/// What is on screen.
#[derive(Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "switches that have nothing to do with each other"
)]
pub(super) struct View {
    pub(super) mode: Mode,
    /// Number of finished steps behind the frame on screen; `None` follows the run.
    pub(super) frame: Option<usize>,
    /// The image that is shown alone.
    pub(super) image: Option<usize>,
    /// Which of the layers that route.
    pub(super) layer: usize,
    pub(super) branch: Branch,
    pub(super) overlay: Overlay,
    /// How much the overlay covers, 0 to 1.
    pub(super) strength: f32,
    /// Whether C is shown for each layer.
    pub(super) each_layer: bool,
    pub(super) tab: Tab,
    pub(super) help: bool,
    /// How saved images are enlarged.
    pub(super) enlarge: Enlarge,
    pub(super) address: String,
    pub(super) profiling: bool,
    /// Whether a page shows the image that is being generated in the icon of its tab.
    pub(super) tab_icon: bool,
}

impl Default for View {
    fn default() -> Self {
        Self {
            mode: Mode::Draw,
            frame: None,
            image: None,
            layer: 0,
            branch: Branch::Conditional,
            overlay: Overlay::Off,
            strength: 0.6,
            each_layer: false,
            tab: Tab::Draw,
            help: false,
            enlarge: Enlarge::default(),
            address: String::new(),
            profiling: false,
            tab_icon: true,
        }
    }
}

impl View {
    /// The frame on screen.
    pub(super) fn frame_of(&self, record: &Record) -> usize {
        let last = record.frames.len().saturating_sub(1);
        self.frame.map_or(last, |frame| frame.min(last))
    }

    /// The step whose routing is shown: the one that led to the frame on screen, or the first for the noise.
    pub(super) fn step_of(&self, record: &Record) -> u32 {
        self.frame_of(record).saturating_sub(1) as u32
    }

    /// The place in the trace that is shown.
    pub(super) fn at(&self, record: &Record) -> At {
        At { step: self.step_of(record), layer: self.layer, branch: self.branch }
    }
}

/// A run: with equal settings and model, images and routing are equal too.
#[derive(Clone, PartialEq)]
struct RunKey {
    config: Arc<Config>,
    controls: Controls,
    /// As a link names it.
    decoder: Option<String>,
}

/// What was made of a record for showing it.
#[derive(Default)]
pub(super) struct Shown {
    run: Option<RunKey>,
    /// Images of the frame on screen in one texture.
    pub(super) images: Option<TextureHandle>,
    images_of: Option<Version>,
    pub(super) grid: Option<Grid>,
    /// Blocks that route.
    pub(super) blocks: Vec<usize>,
    pub(super) guided: bool,
    pub(super) curves: Vec<Curve>,
    curves_of: Option<(usize, Branch, bool)>,
    pub(super) load: Option<Load>,
    pub(super) map: Option<TokenMap>,
    map_of: Option<(At, Option<usize>)>,
    pub(super) overlay: Option<TextureHandle>,
    overlay_of: Option<Overlay>,
}

/// The decoder of a run, as a link names it.
fn decoder_of(record: &Record) -> Option<String> {
    let decoder = record.latents.as_ref()?.decoder.as_ref()?;
    Some(decoder.link.clone())
}

impl Shown {
    /// Brings everything up to date with the record and the view; does nothing where nothing changed.
    /// Returns whether another run is on screen than before.
    pub(super) fn update(&mut self, ctx: &Context, record: &Record, view: &mut View) -> bool {
        let same = self.run.as_ref().is_some_and(|run| {
            Arc::ptr_eq(&run.config, &record.config)
                && run.controls == record.controls
                && run.decoder == decoder_of(record)
        });
        // A run that starts over with the same settings has less to show than we have.
        let shorter = self.images_of.is_some_and(|shown| shown.frame >= record.frames.len());
        let another = !same || shorter;
        if another {
            let run = RunKey {
                config: record.config.clone(),
                controls: record.controls.clone(),
                decoder: decoder_of(record),
            };
            let images = self.images.take();
            *self = Self { run: Some(run), images, ..Self::default() };
        }
        let grid = Grid::new(record.labels.len());
        self.grid = Some(grid);
        view.image = view.image.filter(|&image| image < grid.count);
        self.update_images(ctx, record, view, grid);
        self.update_routing(record, view);
        self.update_overlay(ctx, view, grid);
        another
    }

    fn update_images(&mut self, ctx: &Context, record: &Record, view: &View, grid: Grid) {
        let frame = view.frame_of(record);
        let version = record.version(frame);
        if self.images_of == Some(version) {
            return;
        }
        let Some(images) = record.images(frame) else { return };
        let most = ctx.input(|input| input.max_texture_side);
        let image = image_grid::image(&images.samples, images.size, grid, most);
        // Few pixels are shown as they are, because patches are squares of them.
        let small = images.size.iter().all(|&side| side <= 64);
        let options = if small { TextureOptions::NEAREST } else { TextureOptions::LINEAR };
        match &mut self.images {
            Some(texture) => texture.set(image, options),
            None => self.images = Some(ctx.load_texture("images", image, options)),
        }
        self.images_of = Some(version);
    }

    fn update_routing(&mut self, record: &Record, view: &mut View) {
        let trace = &record.trace;
        if self.blocks.is_empty() {
            self.blocks = trace.blocks();
            self.guided = trace.has(Branch::Unconditional);
        }
        if !self.guided {
            view.branch = Branch::Conditional;
        }
        view.layer = view.layer.min(self.blocks.len().saturating_sub(1));
        if let Overlay::Expert(expert) = view.overlay
            && expert >= trace.experts()
        {
            view.overlay = Overlay::Count;
        }
        let wanted = (trace.forwards().len(), view.branch, view.each_layer);
        if self.curves_of != Some(wanted) {
            self.curves =
                capacity::curves(trace, record.config.objective, view.branch, view.each_layer);
            self.curves_of = Some(wanted);
        }
        let wanted = (view.at(record), view.image);
        if self.map_of != Some(wanted) || self.map.is_none() {
            self.load = experts::load(trace, wanted.0, view.image);
            self.map = token_map::token_map(trace, wanted.0);
            self.map_of = Some(wanted);
            self.overlay_of = None;
        }
    }

    fn update_overlay(&mut self, ctx: &Context, view: &View, grid: Grid) {
        if self.overlay_of == Some(view.overlay) {
            return;
        }
        let Some(map) = self.map.as_ref().filter(|_| view.overlay != Overlay::Off) else {
            self.overlay = None;
            return;
        };
        let image = map.image(view.overlay, grid.columns);
        match &mut self.overlay {
            Some(texture) => texture.set(image, TextureOptions::NEAREST),
            None => {
                self.overlay = Some(ctx.load_texture("token map", image, TextureOptions::NEAREST));
            }
        }
        self.overlay_of = Some(view.overlay);
    }
}
