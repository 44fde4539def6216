//! The app in a test's window: small models, opening it, waiting for it, pressing and clicking.

use diffmoe_viewer::session::Selection;

use super::*;

pub(super) const DESKTOP: egui::Vec2 = vec2(1280.0, 800.0);
pub(super) const PHONE: egui::Vec2 = vec2(390.0, 844.0);
/// All controls fit on these without scrolling: what is scrolled away has no name.
pub(super) const TALL: egui::Vec2 = vec2(1280.0, 1600.0);
pub(super) const TALL_PHONE: egui::Vec2 = vec2(390.0, 2600.0);

pub(super) const TINY: &str = r#"{"name": "tiny", "kind": "diffmoe", "t_kind": "flow", "space": "pixels",
    "params": {"input_size": 8, "in_channels": 3, "num_classes": 5, "patch_size": 2, "depth": 4,
        "hidden_size": 16, "num_heads": 2, "learn_sigma": false,
        "MoE_config": {"num_experts": 4, "interleave": true}},
    "labels": [
        {"name": "subject", "tensor": "y_embedder.0.weight", "null": 5,
         "values": ["ant", "bee", "red cat", "dog", "elk"]},
        {"name": "style", "tensor": "y_embedder.1.weight", "null": 2, "values": ["ink", "oil"]}],
    "defaults": {"steps": 3, "guidance": 2.0, "solver": "euler"}}"#;

pub(super) const DENSE: &str = r#"{"name": "dense", "kind": "dense", "t_kind": "flow", "space": "pixels",
    "params": {"input_size": 8, "in_channels": 3, "num_classes": 7, "patch_size": 2, "depth": 1,
        "hidden_size": 16, "num_heads": 2, "learn_sigma": false},
    "defaults": {"steps": 2, "guidance": 1.0, "solver": "heun"}}"#;

pub(super) const LATENTS: &str = r#"{"name": "latents", "kind": "dense", "t_kind": "flow",
    "params": {"input_size": 16, "in_channels": 4, "num_classes": 7, "patch_size": 4, "depth": 1,
        "hidden_size": 16, "num_heads": 2, "learn_sigma": false},
    "defaults": {"steps": 3, "guidance": 1.0, "solver": "euler"}}"#;

/// A model file with random weights that samples in milliseconds.
pub(super) fn file(name: &str, config: &str) -> ModelSource {
    let parsed = Config::from_json(config).expect("a configuration");
    let tensors: Vec<_> = (0..)
        .zip(parsed.tensors())
        .map(|(i, spec)| {
            let mut values = gaussian(1, i, spec.shape.iter().product());
            if spec.name.ends_with("expert_threshold") {
                // Predicted capacities are probabilities: a threshold in their middle takes some tokens.
                values.fill(0.5);
            } else {
                for value in &mut values {
                    *value *= 0.3;
                }
            }
            TensorOut::f32(spec.name, &spec.shape, &values)
        })
        .collect();
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join(name);
    write_safetensors(&path, &tensors, [(CONFIG_KEY.to_owned(), config.to_owned())])
        .expect("a file");
    bytes(name, std::fs::read(path).expect("the file"))
}

/// The small DiffMoE of most tests.
pub(super) fn tiny() -> ModelSource {
    file("tiny.safetensors", TINY)
}

/// An image decoder of the fixtures; its configuration lies beside it.
pub(super) fn decoder() -> ModelSource {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures");
    ModelSource::Path(root.join("vae_kl_mini/model.safetensors"))
}

pub(super) fn bytes(name: &str, content: Vec<u8>) -> ModelSource {
    ModelSource::File { name: name.to_owned(), bytes: Arc::new(Bytes::new(content)) }
}

pub(super) fn launch(model: ModelSource, draw_at_once: bool) -> Launch {
    Launch {
        model,
        decoder: None,
        share: None,
        backend: Backend::Cpu,
        draw_at_once,
        recording: None,
        gallery: None,
        problem: None,
    }
}

/// The app, which begins with the first frame.
pub(super) struct Window {
    launch: Option<Launch>,
    app: Option<App>,
}

impl Window {
    pub(super) fn app(&self) -> &App {
        self.app.as_ref().expect("a frame was shown")
    }

    pub(super) fn app_mut(&mut self) -> &mut App {
        self.app.as_mut().expect("a frame was shown")
    }

    fn frame(&mut self, ui: &mut egui::Ui) {
        if let Some(launch) = self.launch.take() {
            self.app = Some(App::new(ui.ctx(), launch));
        }
        let app = self.app_mut();
        app.tick(ui.ctx());
        app.show(ui);
    }
}

pub(super) type Shown = Harness<'static, Window>;

pub(super) fn window(size: egui::Vec2, launch: Launch) -> Shown {
    let window = Window { launch: Some(launch), app: None };
    Harness::builder()
        .with_size(size)
        .with_theme(egui::Theme::Dark)
        .build_ui_state(|ui, w| w.frame(ui), window)
}

/// The app in a window of some size, with a model and nothing drawn yet.
pub(super) fn opened(size: egui::Vec2, model: ModelSource) -> Shown {
    let mut harness = window(size, launch(model, false));
    until(&mut harness, "a model", |app| app.session().model().is_some());
    harness.run_steps(3);
    harness
}

/// The same, after a run.
pub(super) fn finished(size: egui::Vec2, model: ModelSource, change: fn(&mut Controls)) -> Shown {
    let mut harness = opened(size, model);
    let controls = &mut harness.state_mut().app_mut().session_mut().controls;
    controls.sampling.seed = 5;
    change(controls);
    harness.run_steps(2);
    harness.get_by_label("Generate").click();
    complete(&mut harness);
    harness
}

/// Shows frames until something is so.
pub(super) fn until(harness: &mut Shown, what: &str, so: impl Fn(&App) -> bool) {
    let end = Instant::now() + Duration::from_mins(1);
    while !so(harness.state().app()) {
        let session = harness.state().app().session();
        assert!(
            Instant::now() < end,
            "{what} never came: {:?} {:?}",
            session.phase(),
            session.notes()
        );
        harness.step();
        std::thread::sleep(Duration::from_millis(1));
    }
}

pub(super) fn complete(harness: &mut Shown) {
    // A click acts in the frame after it.
    harness.run_steps(3);
    until(harness, "the end of the run", |app| {
        app.session().phase() == Phase::Ready
            && app.session().record().is_some_and(Record::is_complete)
    });
    harness.run_steps(3);
}

pub(super) fn has(harness: &Shown, label: &str) -> bool {
    harness.query_all_by_label_contains(label).next().is_some()
}

/// Opens Explore and waits for the run with scores.
pub(super) fn open_explore(harness: &mut Shown) {
    press(harness, Key::E);
    complete(harness);
}

/// What Explore shows.
pub(super) fn selection(harness: &Shown) -> Selection {
    let share = harness.state().app().share().expect("a link");
    Share::parse(&share).expect("a good link").explore.expect("Explore is open")
}

/// Clicks a button.
pub(super) fn click(harness: &mut Shown, name: &str) {
    harness.get_by_role_and_label(Role::Button, name).click();
    harness.run_steps(3);
}

/// Presses a key.
pub(super) fn press(harness: &mut Shown, key: Key) {
    harness.key_press(key);
    harness.run_steps(3);
}

/// Whether there is something to paint with; says so where there is not.
pub(super) fn can_paint() -> bool {
    let instance = diffmoe::wgpu::Instance::default();
    let options = diffmoe::wgpu::RequestAdapterOptions::default();
    let found = pollster::block_on(instance.request_adapter(&options)).is_ok();
    if !found {
        println!(
            "skipped: there is no graphics driver to paint with; `cargo xtask test` installs one"
        );
    }
    found
}

/// Explore after a run that kept its scores.
pub(super) fn explored(size: egui::Vec2, model: ModelSource) -> Shown {
    let mut harness = finished(size, model, |controls| controls.sampling.steps = 5);
    open_explore(&mut harness);
    harness
}

/// Draws with other settings, and waits for it.
pub(super) fn draw(harness: &mut Shown, change: fn(&mut Controls)) {
    change(&mut harness.state_mut().app_mut().session_mut().controls);
    harness.state_mut().app_mut().session_mut().generate();
    harness.run_steps(3);
    complete(harness);
}
