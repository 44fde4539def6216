//! The JavaScript API: pictures and routing for pages of other people, without a user interface.
//! `web/diffmoe.d.ts` has the types, `web/README.md` the manual.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use js_sys::{Array, ArrayBuffer, Function, JSON, Object, Reflect, Uint8Array, Uint8ClampedArray};
use wasm_bindgen::prelude::*;
use web_sys::AbortSignal;
use web_time::Instant;

use super::events::{Turns, pause};
use super::options::{self, Options};
use crate::checkpoint::Checkpoint;
use crate::model::{Config, EngineError, Progress, WeightChoice};
use crate::picture;
use crate::platform::{self, Bytes, Transfer};
use crate::sampler::{Backend, OpenModel, Run, Settings};

/// A slice of work aims at this many milliseconds, half of a frame.
const SLICE: f64 = 8.0;
/// How often a run is taken up again on a new device before we believe that the devices are not at fault.
const RECOVERIES: u32 = 3;

/// A model that draws.
#[wasm_bindgen]
pub struct Generator {
    inner: Rc<Inner>,
}

struct Inner {
    checkpoint: Checkpoint,
    backend: Backend,
    model: RefCell<OpenModel>,
    /// Counts the devices that the model has been on.
    generation: Cell<u32>,
}

fn error(message: impl std::fmt::Display) -> JsValue {
    js_sys::Error::new(&message.to_string()).into()
}

fn set(object: &Object, key: &str, value: impl Into<JsValue>) {
    // A plain object takes every entry.
    let _ = Reflect::set(object, &key.into(), &value.into());
}

#[wasm_bindgen]
impl Generator {
    /// Fetches a model where it has to be fetched, and puts it on a device.
    ///
    /// # Errors
    /// What a script or its user can do something about, as an `Error` with a sentence.
    pub async fn create(options: JsValue) -> Result<Generator, JsValue> {
        let options = Options::new(options, &["model", "backend", "onProgress"]).map_err(error)?;
        let backend = options.backend().map_err(error)?;
        let progress = options.function("onProgress").map_err(error)?;
        let (label, bytes) = model_bytes(&options, progress.as_ref()).await?;
        report(progress.as_ref(), "open", 0, None);
        // Let the page show that before the device keeps it busy.
        pause(0).await;
        let checkpoint = Checkpoint::from_bytes(&label, bytes).map_err(error)?;
        let model = OpenModel::request(&checkpoint, backend, WeightChoice::Auto).await;
        let model = RefCell::new(model.map_err(error)?);
        let inner = Inner { checkpoint, backend, model, generation: Cell::new(0) };
        Ok(Self { inner: Rc::new(inner) })
    }

    /// What the model is and where it computes.
    #[wasm_bindgen(getter)]
    pub fn info(&self) -> Object {
        let config = self.inner.checkpoint.config();
        let model = self.inner.model.borrow();
        let info = Object::new();
        set(&info, "name", config.name.as_str());
        set(&info, "device", model.device());
        set(&info, "note", model.note().map_or(JsValue::NULL, JsValue::from));
        set(&info, "width", config.input_size as u32);
        set(&info, "height", config.input_size as u32);
        set(&info, "experts", config.num_experts as u32);
        set(&info, "tokens", config.tokens() as u32);
        let blocks = config.moe_blocks().into_iter().map(|block| JsValue::from(block as u32));
        set(&info, "moeBlocks", blocks.collect::<Array>());
        let labels = Object::new();
        for table in &config.labels {
            let names = (0..table.null).map(|row| JsValue::from(table.label(row)));
            set(&labels, &table.name, names.collect::<Array>());
        }
        set(&info, "labels", labels);
        let defaults = Object::new();
        set(&defaults, "steps", config.defaults.steps);
        set(&defaults, "guidance", config.defaults.guidance);
        set(&defaults, "solver", config.defaults.solver.as_str());
        set(&info, "defaults", defaults);
        info
    }

    /// Draws pictures; see `web/README.md` for the options.
    ///
    /// # Errors
    /// As [`Generator::create`]; the reason of the signal when it was aborted.
    pub fn sample(&self, options: JsValue) -> js_sys::Promise {
        // The promise holds the model, so a script may free the generator at any time.
        let inner = self.inner.clone();
        wasm_bindgen_futures::future_to_promise(async move { inner.sample(options).await })
    }
}

/// Every shader that this program may run, as `{ name, source }`, for checks of a browser's compiler.
#[wasm_bindgen]
pub fn shaders() -> Array {
    let entry = |kernel: crate::gpu::KernelSource| {
        let entry = Object::new();
        set(&entry, "name", kernel.name);
        set(&entry, "source", kernel.source);
        JsValue::from(entry)
    };
    crate::kernels::all_sources().into_iter().map(entry).collect()
}

/// The file's name and content.
async fn model_bytes(
    options: &Options,
    progress: Option<&Function>,
) -> Result<(String, Bytes), JsValue> {
    let wanted = options.get("model").ok_or_else(|| {
        error("create needs a model: the address of a safetensors file, or its bytes")
    })?;
    if let Some(address) = wanted.as_string() {
        return Ok((address.clone(), fetch(&address, progress).await?));
    }
    let bytes = match wanted.dyn_into::<ArrayBuffer>() {
        Ok(buffer) => Uint8Array::new(&buffer),
        Err(other) => other
            .dyn_into::<Uint8Array>()
            .map_err(|_| error("model has to be an address, an ArrayBuffer or a Uint8Array"))?,
    };
    Ok(("the model".into(), Bytes::new(bytes.to_vec())))
}

/// Downloads a file and reports how far it is, some times a second.
async fn fetch(address: &str, progress: Option<&Function>) -> Result<Bytes, JsValue> {
    let transfer = Transfer::default();
    let (wanted, shared) = (address.to_owned(), transfer.clone());
    let job = move || async move { platform::fetch(&wanted, &shared).await };
    let mut task = platform::spawn(std::sync::Arc::new(|| {}), job);
    loop {
        let result = task.take();
        report(progress, "download", transfer.done(), transfer.total());
        match result {
            Some(result) => return result.map_err(error),
            None => pause(50).await,
        }
    }
}

fn report(progress: Option<&Function>, stage: &str, done: u64, total: Option<u64>) {
    let Some(progress) = progress else { return };
    let event = Object::new();
    set(&event, "stage", stage);
    set(&event, "done", done as f64);
    set(&event, "total", total.map_or(JsValue::NULL, |total| (total as f64).into()));
    // An error in a listener is the listener's own; it must not end the download.
    let _ = progress.call1(&JsValue::NULL, &event);
}

/// What a run reports to.
struct Listener {
    on_step: Option<Function>,
    signal: Option<AbortSignal>,
}

impl Listener {
    fn check(&self) -> Result<(), JsValue> {
        match &self.signal {
            Some(signal) if signal.aborted() => Err(signal.reason()),
            _ => Ok(()),
        }
    }

    fn step(&self, run: &Run, config: &Config) -> Result<(), JsValue> {
        let Some(on_step) = &self.on_step else { return Ok(()) };
        let rgba = rgba(run.latent(), config);
        let (step, steps) = (run.finished_steps(), run.settings().steps);
        on_step.call3(&JsValue::NULL, &step.into(), &steps.into(), &rgba).map(drop)
    }
}

fn rgba(samples: &[f32], config: &Config) -> Uint8ClampedArray {
    Uint8ClampedArray::from(picture::rgba(samples, config.input_size as u32).as_slice())
}

impl Inner {
    async fn sample(&self, value: JsValue) -> Result<JsValue, JsValue> {
        let config = self.checkpoint.config();
        let options = options::sample(value).map_err(error)?;
        let settings = options::settings(&options, config, platform::new_seed()).map_err(error)?;
        if !config.pixels || config.in_channels != 3 {
            return Err(error("this model makes latents, which cannot be decoded to pixels yet"));
        }
        let listener = Listener {
            on_step: options.function("onStep").map_err(error)?,
            signal: options.signal().map_err(error)?,
        };
        listener.check()?;
        let run = self.run(settings, &listener).await?;
        let result = Object::new();
        set(&result, "width", config.input_size as u32);
        set(&result, "height", config.input_size as u32);
        set(&result, "count", run.settings().pictures() as u32);
        set(&result, "seed", run.settings().seed as f64);
        set(&result, "rgba", rgba(run.latent(), config));
        set(&result, "device", self.model.borrow().device());
        set(&result, "capacity", run.trace().capacity().map_or(JsValue::NULL, JsValue::from));
        if options.get("trace").is_none_or(|wanted| wanted.is_truthy()) {
            let text = run.trace().to_json().map_err(error)?;
            set(&result, "trace", JSON::parse(&text)?);
        }
        Ok(result.into())
    }

    /// Samples to the end; goes on from the last finished step on a new device when one is lost.
    async fn run(&self, settings: Settings, listener: &Listener) -> Result<Run, JsValue> {
        let config = self.checkpoint.config();
        let batch = settings.pictures();
        let mut generation = self.generation.get();
        let model = self.model.borrow().clone();
        let engine = model.request_engine(batch).await.map_err(error)?;
        let mut run = Run::start(engine, config, settings, 0);
        let mut recoveries = 0;
        loop {
            match self.drive(&mut run, listener).await? {
                Ok(()) => return Ok(run),
                Err(lost @ EngineError::DeviceLost(_)) => {
                    recoveries += 1;
                    if recoveries > RECOVERIES {
                        return Err(error(lost));
                    }
                    let model = self.reopened(generation).await?;
                    let engine = model.request_engine(batch).await.map_err(error)?;
                    generation = self.generation.get();
                    run = Run::resume(engine, config, run.settings().clone(), run.unfinished());
                }
                Err(other) => return Err(error(other)),
            }
        }
    }

    /// The model on a device younger than `generation`.
    async fn reopened(&self, generation: u32) -> Result<OpenModel, JsValue> {
        if self.generation.get() == generation {
            let request = OpenModel::request(&self.checkpoint, self.backend, WeightChoice::Auto);
            let model = request.await.map_err(error)?;
            *self.model.borrow_mut() = model;
            self.generation.set(generation + 1);
        }
        Ok(self.model.borrow().clone())
    }

    /// Advances a run in slices until it is finished. The outer error is for the script.
    async fn drive(
        &self,
        run: &mut Run,
        listener: &Listener,
    ) -> Result<Result<(), EngineError>, JsValue> {
        let config = self.checkpoint.config();
        let turns = Turns::new()?;
        let mut budget = 1;
        loop {
            let (begin, before) = (Instant::now(), run.finished_steps());
            let progress = match run.advance(budget) {
                Ok(progress) => progress,
                Err(failure) => return Ok(Err(failure)),
            };
            let elapsed = begin.elapsed().as_secs_f64() * 1e3;
            if run.finished_steps() > before {
                listener.step(run, config)?;
            }
            match progress {
                Progress::Done => return Ok(Ok(())),
                Progress::Working if elapsed > SLICE => budget = (budget / 2).max(1),
                Progress::Working if elapsed < SLICE / 2.0 => budget = (budget * 2).min(1 << 10),
                Progress::Working | Progress::Busy => {}
            }
            if progress == Progress::Busy {
                pause(1).await;
            } else {
                turns.next().await?;
            }
            listener.check()?;
        }
    }
}
