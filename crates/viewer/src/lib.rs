//! The app: one user interface for a window and for a web page. It shows what [`session`] does.
//!
//! In each frame the session does a few milliseconds of work, the view-models that changed are rebuilt (`view`), and
//! the panels are laid out (`layout`). Nothing here blocks.

pub mod announce;
mod explore;
mod gallery;
mod icons;
mod jobs;
mod keys;
mod layout;
pub mod mirror;
pub mod palette;
mod panels;
pub mod picker;
pub mod platform;
mod saving;
pub mod session;
mod theme;
mod view;
pub mod views;
mod widgets;
#[cfg(feature = "window")]
pub mod window;

use std::mem::{Discriminant, discriminant};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use egui::{Context, Ui};
use web_time::Instant;

pub use icons::window_icon;

use self::jobs::Jobs;
use self::keys::Action;
use self::platform::Waker;
use self::session::{ModelSource, NoteKind, Phase, Session, Share, Start, Tick};
use self::view::{Mode, Shown, View};
use self::views::token_map::Overlay;
use diffmoe::pipeline::Backend;
use diffmoe::pixels::RgbImage;

/// Runs up to this duration are repeated without asking.
const SOON_MS: f32 = 8000.0;

/// Until the next frame, while a device is busy.
const FRAME: Duration = Duration::from_millis(16);
/// The same where the host calls [`Session::tick`] between frames: painting takes time from the processor that computes.
const CALM: Duration = Duration::from_millis(200);

/// Start options of the app.
pub struct Launch {
    /// The first model.
    pub model: ModelSource,
    /// An image decoder, for a model that generates latents.
    pub decoder: Option<ModelSource>,
    /// A shared run to show first.
    pub share: Option<Share>,
    /// The device.
    pub backend: Backend,
    /// Whether to draw without being asked.
    pub draw_at_once: bool,
    /// A recorded run to be shown until the first model is there.
    pub recording: Option<&'static [u8]>,
    /// The folder of images that the user keeps; without one there is no gallery. A page keeps them in the browser.
    pub gallery: Option<PathBuf>,
    /// Something that went wrong before, for instance a link that cannot be read.
    pub problem: Option<String>,
}

/// The app, for a window and for a page.
pub struct App {
    session: Session,
    view: View,
    explore: explore::Explore,
    shown: Shown,
    thumbs: panels::history::Thumbs,
    painter: panels::init::Painter,
    sweep: panels::sweep::SweepForm,
    gallery: gallery::Gallery,
    kept: panels::gallery::Textures,
    jobs: Jobs,
    /// When the work of the last frame ended.
    worked_until: Option<Instant>,
    /// Whether frames are needed to see what a device has finished.
    looks_out: bool,
    /// How many parts of the window are shown ([`App::begin_slowly`]).
    grown: u8,
    /// What the last frame showed of the run: its number, its frames, and what the session did.
    seen: Option<(u64, usize, Discriminant<Phase>)>,
}

impl App {
    /// Sets up the look and starts loading the first model.
    pub fn new(ctx: &Context, launch: Launch) -> Self {
        theme::install(ctx);
        let waker: Waker = {
            let ctx = ctx.clone();
            Arc::new(move || ctx.request_repaint())
        };
        let Launch { model, decoder, share, backend, draw_at_once, .. } = launch;
        let start = Start { model, decoder, share, backend, draw_at_once, waker: waker.clone() };
        let mut session = Session::new(start);
        if let Some(recording) = launch.recording {
            session.show_recording(recording);
        }
        if let Some(problem) = launch.problem {
            session.note(NoteKind::Error, problem);
        }
        Self {
            session,
            view: View::default(),
            explore: explore::Explore::default(),
            shown: Shown::default(),
            thumbs: panels::history::Thumbs::default(),
            painter: panels::init::Painter::default(),
            sweep: panels::sweep::SweepForm::default(),
            gallery: gallery::Gallery::new(launch.gallery, waker.clone()),
            kept: panels::gallery::Textures::default(),
            jobs: Jobs::new(waker),
            worked_until: None,
            looks_out: true,
            grown: layout::PARTS,
            seen: None,
        }
    }

    /// What the app does, for tests and for the page around it.
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// The same, to act on it.
    pub fn session_mut(&mut self) -> &mut Session {
        &mut self.session
    }

    /// Whether the app asks for frames only to see what a device has finished. A host that calls [`Session::tick`] between
    /// frames switches it off, and asks for a frame when the app [is behind](Self::is_behind).
    pub fn set_look_out(&mut self, on: bool) {
        self.looks_out = on;
    }

    /// The first frames show one part of the window after another: a page, whose program is compiled as it is called, does
    /// not stop for all of them at once.
    pub fn begin_slowly(&mut self) {
        self.grown = 0;
    }

    /// Whether all parts of the window are shown.
    pub fn is_grown(&self) -> bool {
        self.grown == layout::PARTS
    }

    /// Whether the session has got further than the last frame showed.
    pub fn is_behind(&self) -> bool {
        self.state_of_run() != self.seen
    }

    fn state_of_run(&self) -> Option<(u64, usize, Discriminant<Phase>)> {
        let record = self.session.record()?;
        Some((record.id, record.frames.len(), discriminant(&self.session.phase())))
    }

    /// Whether a page shall show the image that is being generated in the icon of its tab.
    pub fn shows_tab_icon(&self) -> bool {
        self.view.tab_icon
    }

    /// Switches that on or off.
    pub fn set_tab_icon(&mut self, on: bool) {
        self.view.tab_icon = on;
    }

    /// How many images are in the gallery, once that is known.
    pub fn kept_images(&self) -> Option<usize> {
        self.gallery.count()
    }

    /// Does the background work of a frame and requests the next frame if there is more to do.
    pub fn tick(&mut self, ctx: &Context) {
        self.jobs.tick(&mut self.session);
        self.tell_gallery();
        let began = Instant::now();
        let budget = work_budget(self.worked_until.map(|end| began.saturating_duration_since(end)));
        let mut tick = self.session.tick();
        while tick == Tick::Again && began.elapsed() < budget {
            tick = self.session.tick();
        }
        self.worked_until = (tick == Tick::Again).then(Instant::now);
        match tick {
            Tick::Again => ctx.request_repaint(),
            Tick::Later => ctx.request_repaint_after(if self.looks_out { FRAME } else { CALM }),
            Tick::Idle => {}
        }
        if let Some(selection) = self.session.take_selection() {
            self.explore.selection = selection;
            self.set_mode(Mode::Explore);
        }
        if let Some(image) = self.session.take_image() {
            self.view.image = Some(image);
            self.explore.selection.image = image;
        }
        self.open_next();
        self.seen = self.state_of_run();
        let Some(record) = self.session.record() else { return };
        if self.shown.update(ctx, record, &mut self.view) {
            self.view.frame = None;
            if let Some(fragment) = self.share() {
                platform::set_fragment(&fragment);
            }
        }
    }

    /// Paints a frame and acts on what was pressed.
    pub fn show(&mut self, ui: &mut Ui) {
        let ctx = ui.ctx().clone();
        self.take_files(&ctx);
        for action in keys::pressed(&ctx) {
            if self.view.mode == Mode::Draw || self.acts_in_explore(action) {
                self.act(&ctx, action);
            }
        }
        layout::show(self, ui);
        if !self.is_grown() {
            self.grown += 1;
            ctx.request_repaint();
        }
    }

    fn take_files(&mut self, ctx: &Context) {
        for file in ctx.input(|input| input.raw.dropped_files.clone()) {
            self.jobs.dropped(file);
        }
        let pasted = |event: &egui::Event| match event {
            egui::Event::PasteImage(image) => Some(image.clone()),
            _ => None,
        };
        for image in ctx.input(|input| input.events.iter().filter_map(pasted).collect::<Vec<_>>()) {
            let [width, height] = image.size.map(|side| side as u32);
            let rgba = image.pixels.iter().flat_map(egui::Color32::to_srgba_unmultiplied);
            if let Some(image) = RgbImage::from_rgba(width, height, &rgba.collect::<Vec<_>>()) {
                self.session.start_from_image("pasted image", &image);
            }
        }
    }

    /// Draws with the controls as they are. What is on screen already is not drawn again: then the seed changes.
    fn generate(&mut self) {
        if self.would_repeat() {
            self.session.controls.sampling.seed = platform::new_seed();
        }
        self.session.generate();
        self.view.frame = None;
    }

    /// Whether the run on screen is finished and has just these settings.
    fn would_repeat(&self) -> bool {
        let same_model = |record: &session::Record| {
            self.session.model().is_some_and(|model| Arc::ptr_eq(&model.config, &record.config))
        };
        self.session.record().is_some_and(|record| {
            record.is_complete() && record.controls == self.session.controls && same_model(record)
        })
    }

    fn act(&mut self, ctx: &Context, action: Action) {
        let frames = self.session.record().map_or(0, |record| record.frames.len());
        let frame = self.session.record().map_or(0, |record| self.view.frame_of(record));
        match action {
            Action::GenerateOrPause => match self.session.phase() {
                Phase::Running | Phase::Recovering | Phase::Decoding { .. } => self.session.pause(),
                Phase::Paused => self.session.go_on(),
                Phase::Ready => self.generate(),
                Phase::Fetching { .. } | Phase::Opening { .. } | Phase::NoModel => {}
            },
            Action::Step => {
                self.view.frame = None;
                self.session.step();
            }
            Action::Cancel if self.gallery.opened().is_some() => self.gallery.close(),
            Action::Cancel if self.view.help => self.view.help = false,
            Action::Cancel => self.session.cancel(),
            Action::Back => self.look_at(frame.saturating_sub(1)),
            Action::Forward => self.look_at(frame + 1),
            Action::First => self.look_at(0),
            Action::Last => self.look_at(frames),
            Action::Dice => self.session.controls.sampling.seed = platform::new_seed(),
            Action::Overlay => {
                let off = self.view.overlay == Overlay::Off;
                self.view.overlay = if off { Overlay::Count } else { Overlay::Off };
            }
            Action::Save => self.save_png(self.view.image),
            Action::Keep if self.can_keep() => self.keep(self.view.image),
            Action::Keep => {}
            Action::Link => self.copy_link(ctx),
            Action::Help => self.view.help = !self.view.help,
            Action::Mode => self.set_mode(match self.view.mode {
                Mode::Draw => Mode::Explore,
                Mode::Explore => Mode::Draw,
            }),
        }
    }

    /// Whether a shortcut of Draw means the same in Explore, which has its own keys for what is looked at.
    fn acts_in_explore(&self, action: Action) -> bool {
        match action {
            // First Esc lets go of what is chosen there.
            Action::Cancel => {
                self.view.help || self.gallery.opened().is_some() || !self.explore.holds_something()
            }
            Action::Link | Action::Help | Action::Mode => true,
            _ => false,
        }
    }

    /// Changes the mode; the step, image, layer and pass that are looked at go along.
    fn set_mode(&mut self, mode: Mode) {
        if self.view.mode == mode {
            return;
        }
        self.view.mode = mode;
        self.session.set_recording(mode == Mode::Explore);
        if mode == Mode::Explore && self.lacks_scores() {
            // The same images again, now with what the router had in mind.
            self.session.generate();
        }
        let selection = &mut self.explore.selection;
        if mode == Mode::Explore {
            selection.step =
                self.view.frame.map(|frame| frame.saturating_sub(1)).or(selection.step);
            selection.image = self.view.image.unwrap_or(selection.image);
        } else {
            self.view.frame = selection.step.map(|step| step + 1);
            self.view.layer = selection.layer;
            self.view.branch = selection.pass;
        }
    }

    /// Whether the run on screen could be drawn again in a moment, with the scores that it lacks.
    fn lacks_scores(&self) -> bool {
        let quick = |record: &session::Record| record.step_ms.iter().sum::<f32>() < SOON_MS;
        self.session.phase() == Phase::Ready
            && self.would_repeat()
            && self.session.record().is_some_and(|record| {
                !record.trace.blocks().is_empty() && !record.trace.has_scores() && quick(record)
            })
    }

    /// What Explore looks at, while it is open.
    fn explored(&self) -> Option<session::Selection> {
        (self.view.mode == Mode::Explore).then_some(self.explore.selection)
    }

    /// The fragment of a link to what is on screen.
    pub fn share(&self) -> Option<String> {
        self.session.share_with(self.explored(), self.compared().as_deref())
    }

    /// Opens Explore with a selection.
    pub fn explore(&mut self, selection: session::Selection) {
        self.set_mode(Mode::Explore);
        self.explore.selection = selection;
    }

    /// How often Explore rebuilt its views, for tests: nothing is rebuilt without input.
    pub fn explore_makings(&self) -> u64 {
        self.explore.makings()
    }

    /// Shows a frame; the last one follows the run.
    fn look_at(&mut self, frame: usize) {
        let frames = self.session.record().map_or(0, |record| record.frames.len());
        self.view.frame = (frame + 1 < frames).then_some(frame);
    }
}

/// How long a frame may compute, given what passed since the frame before had computed: as long, so that slow
/// painting does not starve the run. A page has to answer its browser sooner than a window its system.
fn work_budget(painting: Option<Duration>) -> Duration {
    let most = if platform::page_address().is_some() { 16 } else { 80 };
    painting.unwrap_or_default().min(Duration::from_millis(most))
}

impl eframe::App for App {
    fn logic(&mut self, ctx: &Context, _frame: &mut eframe::Frame) {
        self.tick(ctx);
    }

    fn ui(&mut self, ui: &mut Ui, _frame: &mut eframe::Frame) {
        self.show(ui);
    }
}
