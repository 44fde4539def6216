//! The app on a canvas of a page.

use std::cell::RefCell;

use js_sys::{Array, Function, Object, Reflect, Uint8ClampedArray};
use wasm_bindgen::prelude::*;
use web_sys::HtmlCanvasElement;

use super::events::{Turns, pause};
use super::tab_icon::TabIcon;
use super::{mirror, objects};
use diffmoe::model::UnknownName;
use diffmoe::pipeline::Backend;
use diffmoe::pixels;
use diffmoe_viewer::platform;
use diffmoe_viewer::session::{ModelSource, Phase, Rendering, Session, Share, Tick};
use diffmoe_viewer::{App, Launch};

thread_local! {
    /// Callback for crashes of the program.
    static ON_CRASH: RefCell<Option<Function>> = const { RefCell::new(None) };
}

/// The app, in a form in which it can be asked how it is; only web pages have that.
struct Shell {
    app: App,
    icon: TabIcon,
    ctx: egui::Context,
}

impl Shell {
    /// Works between two frames, and asks for one when there is something new to see.
    fn work(&mut self) -> Tick {
        let tick = self.app.session_mut().tick();
        if self.app.is_behind() {
            self.ctx.request_repaint();
        }
        tick
    }
}

impl eframe::App for Shell {
    fn logic(&mut self, ctx: &egui::Context, frame: &mut eframe::Frame) {
        self.app.logic(ctx, frame);
        self.icon.update(&self.app);
    }

    fn ui(&mut self, ui: &mut egui::Ui, frame: &mut eframe::Frame) {
        self.app.ui(ui, frame);
        mirror::announce(self.app.session());
    }

    fn as_any_mut(&mut self) -> Option<&mut dyn std::any::Any> {
        Some(self)
    }
}

/// Draws the app on a canvas from now on, with the model of the name `first` where the address names none. `on_crash` is called with a message if the program ends by a bug.
///
/// # Errors
/// When the browser can paint neither with WebGL nor with WebGPU.
#[wasm_bindgen]
pub async fn start(
    canvas: HtmlCanvasElement,
    first: String,
    on_crash: Function,
) -> Result<Page, JsValue> {
    ON_CRASH.set(Some(on_crash));
    std::panic::set_hook(Box::new(|panic| {
        console_error_panic_hook::hook(panic);
        let message = panic.to_string();
        // A crash while crashing is reported once.
        if let Some(on_crash) = ON_CRASH.take() {
            let _ = on_crash.call1(&JsValue::NULL, &message.into());
        }
    }));
    // A canvas that refuses one kind of painting can still be painted with the other.
    let (runner, painter) = match paint(&canvas, &first, eframe::Renderer::Glow).await {
        Ok(runner) => (runner, "webgl"),
        Err(refused) => {
            let runner = paint(&canvas, &first, eframe::Renderer::Wgpu).await.map_err(|error| {
                let text = |e: JsValue| e.as_string().unwrap_or_else(|| format!("{e:?}"));
                objects::error(format!("WebGL: {}. WebGPU: {}", text(refused), text(error)))
            })?;
            (runner, "webgpu")
        }
    };
    wasm_bindgen_futures::spawn_local(work_between_frames(runner.clone(), first));
    Ok(Page { runner, painter })
}

/// Starts the app on a canvas.
async fn paint(
    canvas: &HtmlCanvasElement,
    first: &str,
    renderer: eframe::Renderer,
) -> Result<eframe::WebRunner, JsValue> {
    let runner = eframe::WebRunner::new();
    let (at, first) = (canvas.clone(), first.to_owned());
    let create: eframe::AppCreator<'static> = Box::new(move |context| {
        let ctx = &context.egui_ctx;
        let mut app = App::new(ctx, launch(&first));
        // `work_between_frames` looks more often than there are frames.
        app.set_look_out(false);
        app.begin_slowly();
        if wants_stillness() {
            app.set_tab_icon(false);
            ctx.all_styles_mut(|style| {
                style.animation_time = 0.0;
                style.scroll_animation = egui::style::ScrollAnimation::none();
            });
        }
        mirror::install(ctx, at);
        Ok(Box::new(Shell { app, icon: TabIcon::default(), ctx: ctx.clone() }))
    });
    let options = eframe::WebOptions { renderer, ..eframe::WebOptions::default() };
    runner.start(canvas.clone(), options, create).await?;
    Ok(runner)
}

/// Whether the visitor has asked for less motion.
fn wants_stillness() -> bool {
    let query = |window: web_sys::Window| {
        window.match_media("(prefers-reduced-motion: reduce)").ok().flatten()
    };
    web_sys::window().and_then(query).is_some_and(|query| query.matches())
}

/// Frames come 60 times a second at most, and each may compute for a few milliseconds only: what is left between
/// them is used here, in slices of the same length. A page in the background rests.
async fn work_between_frames(runner: eframe::WebRunner, first: String) {
    let Ok(turns) = Turns::new() else { return };
    let is_hidden = || web_sys::window().and_then(|w| w.document()).is_some_and(|d| d.hidden());
    let mut recording = shows_recording(&first);
    while !runner.has_panicked() {
        if let Some(mut shell) = runner.app_mut::<Shell>()
            && recording
            && shell.app.is_grown()
        {
            recording = false;
            show_recording(shell.app.session_mut(), &first);
            shell.ctx.request_repaint();
        }
        let tick = match runner.app_mut::<Shell>() {
            Some(mut shell) if !is_hidden() => shell.work(),
            _ => Tick::Idle,
        };
        match tick {
            Tick::Again => {
                if turns.next().await.is_err() {
                    return;
                }
            }
            Tick::Later => pause(2).await,
            // The frame that follows a click begins the work; this only has to join it.
            Tick::Idle => pause(50).await,
        }
    }
}

/// The device that the page's URL names.
fn backend() -> Result<Backend, UnknownName> {
    platform::query("backend").map_or(Ok(Backend::default()), |name| name.parse())
}

/// Parameters of the page's URL: `?model=`, `?vae=`, `?backend=`, and a shared run behind the `#`.
fn launch(first: &str) -> Launch {
    let mut problem = None;
    let share = platform::fragment()
        .and_then(|text| Share::parse(&text).map_err(|error| problem = Some(error)).ok());
    let backend = backend().unwrap_or_else(|error| {
        problem = Some(format!("?backend= in the address: {error}"));
        Backend::default()
    });
    let model = match platform::query("model") {
        None => ModelSource::Named(first.into()),
        Some(name) if platform::built_in_names().contains(&name) => ModelSource::Named(name),
        Some(address) => ModelSource::Url(address),
    };
    let decoder = platform::query("vae").map(ModelSource::Url);
    let draw_at_once = true;
    // The recorded run comes after the first frames.
    let (recording, gallery) = (None, None);
    Launch { model, decoder, share, backend, draw_at_once, recording, gallery, problem }
}

/// Whether there is something to explore while the model arrives: a recorded run of the model that draws the first image.
fn shows_recording(first: &str) -> bool {
    let is_first = platform::query("model").is_none_or(|name| name == first);
    is_first && platform::fragment().is_none_or(|text| Share::parse(&text).is_err())
}

/// Shows it, unless the model is there already.
fn show_recording(session: &mut Session, first: &str) {
    if session.model().is_some() {
        return;
    }
    if let Some(bytes) = platform::built_in_recording(first) {
        session.show_recording(&bytes);
    }
}

/// A running app, to be looked at from a script: for tests and for the curious. Nothing here changes anything.
#[wasm_bindgen]
pub struct Page {
    runner: eframe::WebRunner,
    painter: &'static str,
}

#[wasm_bindgen]
impl Page {
    /// What the app is doing: `painter`, `phase`, `step`, `steps`, `seed`, `device`, `backendNote`, `model`, `decoder`, `width`,
    /// `height`, `rendering`, `share`, `notes`, `startImage`,
    /// `kept`. Nothing after a bug has ended the app.
    pub fn state(&self) -> Object {
        let state = Object::new();
        if let Some(shell) = self.runner.app_mut::<Shell>() {
            describe(shell.app.session(), &state);
            if let Some(count) = shell.app.kept_images() {
                objects::set(&state, "kept", count as u32);
            }
            objects::set(&state, "painter", self.painter);
        }
        state
    }

    /// The images after a step of the run on screen, one after the other, four bytes a pixel; of the last
    /// finished step where none is given.
    pub fn rgba(&self, step: Option<usize>) -> Option<Uint8ClampedArray> {
        let shell = self.runner.app_mut::<Shell>()?;
        let record = shell.app.session().record()?;
        let images = record.images(step.or(record.frames.len().checked_sub(1))?)?;
        let bytes = pixels::rgba(&images.samples, images.size);
        Some(Uint8ClampedArray::from(bytes.as_slice()))
    }
}

/// What images are, in one word.
fn name(rendering: Rendering) -> &'static str {
    match rendering {
        Rendering::Pixels => "pixels",
        Rendering::Latents => "latents",
        Rendering::Preview => "preview",
        Rendering::Decoded => "decoded",
    }
}

fn describe(session: &Session, state: &Object) {
    let set = |key: &str, value: JsValue| {
        // A plain object takes every entry.
        let _ = Reflect::set(state, &key.into(), &value);
    };
    let text = |text: Option<String>| text.map_or(JsValue::NULL, JsValue::from);
    let phase = match session.phase() {
        Phase::Fetching { .. } => "fetching",
        Phase::Opening { .. } => "opening",
        Phase::Ready => "ready",
        Phase::Running => "running",
        Phase::Decoding { .. } => "decoding",
        Phase::Paused => "paused",
        Phase::Recovering => "recovering",
        Phase::NoModel => "no model",
    };
    set("phase", phase.into());
    let model = session.model();
    set("model", text(model.map(|model| model.name.clone())));
    set("device", text(model.map(|model| model.device.clone())));
    set("backendNote", text(model.and_then(|model| model.backend_note.clone())));
    set("decoder", text(session.decoder().map(|decoder| decoder.name.clone())));
    set("share", text(session.share()));
    let start_image = session.controls.init.as_ref().map(|init| init.name.clone());
    set("startImage", text(start_image));
    let notes = session.notes().iter().map(|note| JsValue::from(note.text.as_str()));
    set("notes", notes.collect::<Array>().into());
    set("runs", (session.history().len() as u32).into());
    if let Some(record) = session.record() {
        set("traced", record.is_traced().into());
        set("step", (record.frames.len().saturating_sub(1) as u32).into());
        set("steps", record.steps().into());
        if let Some(images) = record.frames.len().checked_sub(1).and_then(|f| record.images(f)) {
            let [height, width] = images.size;
            set("width", (width as u32).into());
            set("height", (height as u32).into());
            set("rendering", name(images.rendering).into());
        }
        set("seed", (record.settings.sampling.seed as f64).into());
        set("recorded", record.recorded.into());
        set("count", (record.settings.images() as u32).into());
        let times = record.step_ms.iter().map(|&ms| JsValue::from(ms));
        set("stepMs", times.collect::<Array>().into());
    }
}
