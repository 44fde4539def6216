//! Explore, the second mode of the app: which expert works on which patch at which noise level.
//!
//! One selection is shared by all views. What is under the pointer previews, a click keeps it, Esc lets go. Each view
//! has a file; what it paints is made in `data` and kept in `made` until something of it changes.

mod atlas;
mod axis;
mod bars;
mod colours;
mod compare;
mod curve;
mod data;
mod dense;
mod desktop;
mod drawn;
mod experts;
mod film;
mod gallery;
mod gamma;
mod header;
mod images;
mod kept;
pub(super) mod keys;
mod labels;
mod labels_frame;
mod made;
mod measure;
mod moving;
mod mute;
mod now;
mod numbers;
mod offer;
mod overlay;
mod paint;
mod pair;
mod pattern;
mod phone;
mod place;
mod plot;
mod river;
mod run_map;
mod save;
mod scene;
mod shot;
mod stage;
mod story;
mod survey;
mod svg;
mod tabs;
mod time;
mod tour;
mod vector;
mod versus;
mod why;

use std::time::Duration;

use egui::{CentralPanel, Frame, Margin, Panel, Rect, Ui};
use web_time::Instant;

use self::colours::Ink;
use self::compare::Compare;
use self::keys::Stroke;
use self::made::{Made, RunKey, nearest_steps};
use self::now::{Hover, Now};
use self::pair::Side;
use self::scene::{Other, Part, Scene, Surveying, Touch, Wish};
use crate::App;
use crate::panels::{notes, stage as draw_stage};
use crate::session::{Card, Choice, NoteKind, Phase, Record, Selection, Session};
use crate::theme::{self, Look};

/// Why a run of another model, or a trace file, is not drawn again.
const NOT_OPEN: &str = "the model of this run is not open. Open its file first";

/// Time that playing stays on a step.
const FRAME: Duration = Duration::from_millis(450);
/// How fast playing can go; the first is what it begins with.
const SPEEDS: [f32; 4] = [1.0, 2.0, 4.0, 0.5];

/// What Explore keeps between frames.
#[derive(Default)]
pub(super) struct Explore {
    pub(super) selection: Selection,
    hover: Hover,
    made: Made,
    compare: Compare,
    /// What was made of run B.
    beside: Made,
    measures: measure::Measures,
    tour: tour::Tour,
    /// An image of a view that is on its way to a file.
    shot: Option<shot::Shot>,
    atlas: atlas::AtlasMade,
    /// When playing went to the step on screen.
    played: Option<Instant>,
    /// The speed of playing, a place among [`SPEEDS`].
    speed: usize,
    /// The selection and run B that the address shows.
    written: Option<(Selection, Option<u64>)>,
}

impl Explore {
    /// How often something was made anew for the views: nothing is while nothing changes.
    pub(super) fn makings(&self) -> u64 {
        self.made.makings + self.beside.makings
    }

    /// Goes on with playing.
    fn play(&mut self, ctx: &egui::Context, steps: usize) {
        let Some(since) = self.played else { return };
        let frame = FRAME.div_f32(self.speed());
        let left = frame.saturating_sub(since.elapsed());
        if left.is_zero() {
            let step = self.selection.step.map_or(0, |step| step + 1);
            self.selection.step = Some(if step < steps { step } else { 0 });
            self.played = Some(Instant::now());
        }
        ctx.request_repaint_after(if left.is_zero() { frame } else { left });
    }

    fn speed(&self) -> f32 {
        SPEEDS[self.speed % SPEEDS.len()]
    }

    fn toggle_play(&mut self) {
        self.played = if self.played.is_some() { None } else { Some(Instant::now()) };
    }

    /// Does what a key asks for; returns what only the app can do.
    fn press(&mut self, stroke: Stroke, record: &Record) -> Option<Wish> {
        let now = Now::of(&record.trace, record.labels.len(), &self.selection, Hover::default());
        let steps = record.trace.steps() as usize;
        let selection = &mut self.selection;
        match stroke {
            Stroke::Step(by) => {
                let step = now.step.saturating_add_signed(by).min(steps.saturating_sub(1));
                selection.step = Some(step);
            }
            Stroke::End(last) => {
                selection.step = Some(if last { steps.saturating_sub(1) } else { 0 });
            }
            Stroke::Layer(by) => selection.layer = now.layer.saturating_add_signed(by),
            Stroke::Expert(digit) => {
                let experts = record.trace.experts();
                let chosen = keys::digit(digit, selection.expert, experts);
                selection.expert = chosen.or(selection.expert);
            }
            Stroke::Release if selection.tour.is_some() => selection.tour = None,
            Stroke::Tour(go) if selection.tour.is_some() => tour::go(selection, record, Some(go)),
            Stroke::Tour(_) => {}
            Stroke::Release => {
                (selection.patch, selection.expert, selection.shift) = (None, None, 0.0);
            }
            Stroke::Play => self.toggle_play(),
            Stroke::Mute => return Some(Wish::Mute),
            Stroke::KeepAsB => return Some(Wish::KeepAsB),
        }
        None
    }

    /// Whether Esc has something to let go of here.
    pub(super) fn holds_something(&self) -> bool {
        let selection = &self.selection;
        selection.tour.is_some()
            || selection.patch.is_some()
            || selection.expert.is_some()
            || selection.shift != 0.0
    }
}

/// A run that can be explored: it has finished a step.
fn explorable(session: &Session) -> Option<&Record> {
    session.record().filter(|record| record.finished_steps() > 0 && record.trace.steps() > 0)
}

/// Whether the model of a run is the one that is open.
fn is_open(session: &Session, record: &Record) -> bool {
    session.model().is_some_and(|model| std::sync::Arc::ptr_eq(&model.config, &record.config))
}

/// Shows Explore instead of the panels of Draw.
pub(super) fn show(app: &mut App, ui: &mut Ui, wide: bool) {
    let look = Look::of(ui);
    if !wide {
        theme::for_thumbs(ui);
    }
    let height = if wide { 46.0 } else { 54.0 };
    let bar = Frame::new().fill(look.card).inner_margin(Margin::symmetric(12, 6));
    Panel::top("explore header")
        .frame(bar)
        .exact_size(height)
        .show(ui, |ui| header::show(app, ui, wide));
    let page = Frame::new().fill(look.page).inner_margin(Margin { top: 6, ..Margin::same(10) });
    CentralPanel::default().frame(page).show(ui, |ui| {
        notes::show(app, ui);
        body(app, ui, wide);
    });
    app.write_address();
}

#[expect(clippy::too_many_lines, reason = "the scene lists everything that views read")]
fn body(app: &mut App, ui: &mut Ui, wide: bool) {
    let ctx = ui.ctx().clone();
    let Some(record) = explorable(&app.session) else {
        let size = ui.available_size();
        return draw_stage::show(app, ui, size);
    };
    let explore = &mut app.explore;
    let mut wish = None;
    for stroke in keys::pressed(&ctx) {
        wish = wish.or(explore.press(stroke, record));
    }
    explore.play(&ctx, record.trace.steps() as usize);
    tour::resolve(&mut explore.selection, record);
    let ink = Ink::of(ui);
    explore.compare.update(&app.session);
    let now = Now::of(&record.trace, record.labels.len(), &explore.selection, explore.hover);
    let pair = pair::pair(&app.session, record, &now);
    explore.made.update(&ctx, record, &now, &explore.selection, ink);
    explore.made.update_pair(&ctx, pair, &now);
    if let Some(a) = pair.filter(|pair| pair.b.is_some() && !pair.solo).map(|pair| pair.a) {
        let change = measure::mean(&explore.made.changes);
        explore.measures.keep(a.id, now.layer, now.some_expert(), change);
    }
    let speed = explore.speed();
    let labels = app.session.atlas().filter(|_| explore.selection.card == Card::Labels);
    let labels = labels.and_then(|known| {
        let table = ctx.data(|data| data.get_temp(labels_frame::table_id())).unwrap_or(0);
        let block = *record.trace.blocks().get(now.layer)?;
        let noise = explore.made.noise.get(now.step).copied().unwrap_or(1.0);
        let by = explore.selection.expert;
        explore.made.makings += explore.atlas.update(&ctx, known, (table, block, noise), by);
        explore.atlas.view(known)
    });
    let mut selection = explore.selection;
    let mut touch = Touch { wish, change: explore.compare.change, ..Touch::default() };
    let b = explore.compare.beside(record);
    let now_b = b.as_deref().map(|b| {
        explore.beside.columns.update((RunKey::of(record), RunKey::of(b)), || {
            nearest_steps(&compare::levels(record, &explore.made.noise), &b.noise_levels())
        });
        let now_b = compare::beside(record, b, &now, &explore.beside.columns);
        // Of run B the stage and the counts are shown, and no card.
        let plain = Selection { card: Card::Experts, ..selection };
        explore.beside.update(&ctx, b, &now_b, &plain, ink);
        let side = |record, step| Side { record, step, image: now.image };
        let (a, b) = (side(record, now.step), side(b, now_b.step));
        explore.beside.update_beside(&ctx, &a, &b);
        now_b
    });
    let can_draw = is_open(&app.session, record);
    let alone = Scene {
        record,
        pair,
        other: None,
        part: if explore.compare.is_b(record) { Part::KeptAsB } else { Part::OnScreen },
        can_draw,
        busy: app.session.phase() != Phase::Ready,
        made: &explore.made,
        measures: &explore.measures,
        atlas: labels,
        other_atlas: app.session.atlas_is_of_another_version(),
        survey: Surveying {
            images: app.session.images_of_survey().filter(|_| can_draw),
            progress: app.session.survey().filter(|_| can_draw),
        },
        now,
        hover: explore.hover,
        ink,
        playing: explore.played.is_some(),
        speed,
    };
    let scene_b = b.as_deref().zip(now_b).map(|(record, now)| {
        let hover = Hover { expert: explore.hover.expert, ..Hover::default() };
        let made = &explore.beside;
        let part = Part::Beside;
        Scene { record, pair: None, made, now, hover, can_draw: false, part, ..alone }
    });
    let other = scene_b.as_ref().map(|scene| Other {
        scene,
        steps: &explore.beside.columns,
        same_model: compare::same_model(record, scene.record),
    });
    let scene = Scene { other, ..alone };
    let (area, layer) = (ui.available_rect_before_wrap(), ui.layer_id());
    let (area, strip) = tour::split(area, selection.tour.is_some(), wide);
    if wide {
        desktop::show(ui, area, &scene, &mut selection, &mut touch);
    } else {
        phone::show(ui, area, &scene, &mut selection, &mut touch);
    }
    if let (Some(strip), Some(stop)) = (strip, selection.tour) {
        let go = explore.tour.show(ui, strip, record, scene.can_draw, stop, ink);
        if go.is_some() {
            tour::go(&mut selection, record, go);
        }
    }
    // What previews is shown in the next frame, at once.
    if touch.hover != explore.hover || selection != explore.selection {
        ctx.request_repaint();
    }
    explore.hover = touch.hover;
    explore.selection = selection;
    explore.compare.change = touch.change;
    app.fulfil(touch.wish, &now, now_b.as_ref(), touch.change, ink);
    app.take_shot(&ctx, layer);
    if app.go_on_measuring() {
        ctx.request_repaint_after(Duration::from_millis(16));
    }
}

impl App {
    /// Does what a view was asked for.
    fn fulfil(
        &mut self,
        wish: Option<Wish>,
        now: &Now,
        now_b: Option<&Now>,
        change: data::differences::Change,
        ink: Ink,
    ) {
        let expert = now.some_expert();
        match wish {
            Some(Wish::Play) => self.explore.toggle_play(),
            Some(Wish::Faster) => self.explore.speed += 1,
            Some(Wish::Redraw) => self.redraw(now.what_if),
            Some(Wish::Measure) => self.toggle_measuring(),
            Some(Wish::Save(what)) => self.save_view(what, now, now_b, ink),
            Some(Wish::Mute) => self.mute(now.layer, expert, false),
            Some(Wish::Solo) => self.mute(now.layer, expert, true),
            Some(Wish::KeepAsB) => self.keep_as_b(),
            Some(Wish::ShowAsB(id)) => self.explore.compare.keep(id),
            Some(Wish::Swap) => self.swap(),
            Some(Wish::Compare) => self.compare_with(change),
            Some(Wish::Survey) => self.session.toggle_survey(),
            Some(Wish::CancelSurvey) => self.session.cancel_survey(),
            Some(Wish::DrawLabel(table, label)) => self.draw_label(table, label),
            None => {}
        }
    }

    /// Draws a label of the atlas, with everything else as in the run on screen.
    fn draw_label(&mut self, table: usize, label: usize) {
        let Some((record, atlas)) = self.session.record().zip(self.session.atlas()) else { return };
        let Some(table) = atlas.tables.get(table).filter(|table| label < table.rows.len()) else {
            return;
        };
        if !is_open(&self.session, record) {
            return self.session.note(NoteKind::Error, NOT_OPEN);
        }
        let mut controls = record.controls.clone();
        match record.config.labels.iter().position(|known| known.name == table.name) {
            Some(place) => controls.choices[place] = Choice::Row(table.rows[label]),
            None => controls.prompt.clone_from(&table.labels[label]),
        }
        self.session.controls = controls;
        self.session.generate();
    }

    /// Puts what Explore looks at into the address, where there is one.
    fn write_address(&mut self) {
        let shown = (self.explore.selection, self.compared().map(|b| b.id));
        if self.explore.written == Some(shown) {
            return;
        }
        self.explore.written = Some(shown);
        if let Some(fragment) = self.share() {
            crate::platform::set_fragment(&fragment);
        }
    }
}

/// A child of a `Ui` in a rectangle, which leaves the layout of its parent alone.
fn inside<R>(ui: &mut Ui, rect: Rect, id: &str, contents: impl FnOnce(&mut Ui) -> R) -> R {
    let builder = egui::UiBuilder::new().max_rect(rect).id_salt(id);
    let mut child = ui.new_child(builder);
    contents(&mut child)
}

/// A button whose words are in its middle, however wide it is.
fn centred(words: &str) -> egui::Button<'_> {
    egui::Button::new((egui::Atom::grow(), words, egui::Atom::grow()))
}

/// A widget in a rectangle.
fn put(ui: &mut Ui, rect: Rect, widget: impl egui::Widget) -> egui::Response {
    let builder = egui::UiBuilder::new().max_rect(rect);
    ui.scope_builder(builder, |ui| {
        ui.spacing_mut().interact_size.y = rect.height();
        ui.spacing_mut().button_padding = egui::vec2(6.0, 0.0);
        ui.add(widget)
    })
    .inner
}

/// A switch in a rectangle.
fn switch_in<T: Copy + PartialEq>(
    ui: &mut Ui,
    rect: Rect,
    id: &str,
    value: &mut T,
    choices: &[(T, &str, &str)],
) {
    inside(ui, rect, id, |ui| {
        ui.spacing_mut().interact_size.y = rect.height();
        crate::widgets::switch(ui, value, choices);
    });
}
