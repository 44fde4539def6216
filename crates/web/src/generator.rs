//! The JavaScript API: images and routing for other pages, without a user interface.
//! `web/diffmoe.d.ts` has the types, `web/README.md` the manual.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use js_sys::{Array, JSON, Object, Uint8Array, Uint8ClampedArray};
use wasm_bindgen::prelude::*;

use super::decoder::{Decoder, lost_again};
use super::events::pause;
use super::fetching::{Progress, file_bytes};
use super::objects::{error, set};
use super::options::{self, Options};
use super::slices::{Listener, slices};
use diffmoe::checkpoint::Checkpoint;
use diffmoe::engine::Snapshot;
use diffmoe::model::Config;
use diffmoe::pipeline::{
    Backend, Pipeline, Recipe, Run, Settings, check_decoder, examine, png_texts,
};
use diffmoe::pixels;
use diffmoe::scheduler::SchedulerKind;
use diffmoe::vae::DecoderFile;
use diffmoe_viewer::platform::{self, Bytes};
use diffmoe_viewer::session::checksum;

/// A model that draws.
#[wasm_bindgen]
pub struct Generator {
    inner: Rc<Inner>,
}

struct Inner {
    checkpoint: Checkpoint,
    /// Address of the model's file, or what stands for it.
    label: String,
    /// The same of the decoder.
    decoder_label: Option<String>,
    backend: Backend,
    /// How many workers share the work of the processor, if the script chose.
    workers: Option<usize>,
    model: RefCell<Pipeline>,
    /// Counts the devices that the model has been on.
    generation: Cell<u32>,
    /// Where the model generates latents and a script brought one.
    decoder: Option<Decoder>,
}

#[wasm_bindgen]
impl Generator {
    /// Fetches a model where it has to be fetched, and puts it on a device.
    ///
    /// # Errors
    /// What a script or its user can do something about, as an `Error` with a sentence.
    pub async fn create(options: JsValue) -> Result<Generator, JsValue> {
        let known = ["model", "vae", "backend", "workers", "onProgress"];
        let options = Options::new(options, &known).map_err(error)?;
        let backend = options.backend().map_err(error)?;
        let workers = options.workers().map_err(error)?;
        let listener = options.function("onProgress").map_err(error)?;
        let progress = |file| Progress { listener: listener.as_ref(), file };
        let (label, bytes) = file_bytes(&options, progress("model")).await?.ok_or_else(|| {
            error("create needs a model: the URL of a safetensors file, or its bytes")
        })?;
        let vae = file_bytes(&options, progress("vae")).await?;
        progress("model").report("open", 0, None);
        // Let the page show that before the device keeps it busy.
        pause(0).await;
        let checkpoint = Checkpoint::from_bytes(&label, bytes).map_err(error)?;
        let model = platform::open_model(&checkpoint, backend, workers).await;
        let model = RefCell::new(model.map_err(error)?);
        let decoder_label = vae.as_ref().map(|(label, _)| label.clone());
        let decoder = match vae {
            None => None,
            Some((label, bytes)) => {
                progress("vae").report("open", 0, None);
                pause(0).await;
                Some(open_decoder(checkpoint.config(), &label, bytes, backend).await?)
            }
        };
        let generation = Cell::new(0);
        let inner = Inner {
            checkpoint,
            label,
            decoder_label,
            backend,
            workers,
            model,
            generation,
            decoder,
        };
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
        set_size(&info, self.inner.size());
        set(&info, "latent", latent(config));
        let decoder = self.inner.decoder.as_ref().map(|decoder| decoder.file.kind().name());
        set(&info, "decoder", decoder.map_or(JsValue::NULL, JsValue::from));
        set(&info, "experts", config.num_experts as u32);
        set(&info, "tokens", config.tokens() as u32);
        set(&info, "refiner", refiner(config));
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
        let scheduler = SchedulerKind::default_of(config).name();
        set(&defaults, "scheduler", scheduler);
        // The name of earlier versions.
        set(&defaults, "solver", scheduler);
        set(&info, "defaults", defaults);
        info
    }

    /// Draws images; see `web/README.md` for the options.
    ///
    /// # Errors
    /// As [`Generator::create`]; the reason of the signal when it was aborted.
    pub fn sample(&self, options: JsValue) -> js_sys::Promise {
        // The promise holds the model, so a script may free the generator at any time.
        let inner = self.inner.clone();
        wasm_bindgen_futures::future_to_promise(async move { inner.sample(options).await })
    }
}

/// A report on the device that a page would compute on, for people; see `web/README.md`.
#[wasm_bindgen(js_name = checkDevice)]
pub async fn check_device() -> String {
    examine(Backend::Auto, None).await.text
}

/// Every shader that this program may run, as `{ name, source, constants }`, for checks of a browser's compiler.
#[wasm_bindgen]
pub fn shaders() -> Array {
    let entry = |kernel: diffmoe::gpu::KernelSource| {
        let entry = Object::new();
        set(&entry, "name", kernel.shader.name);
        set(&entry, "source", kernel.shader.source);
        let constants = Object::new();
        for (name, value) in kernel.shader.sizes {
            set(&constants, name, *value);
        }
        set(&entry, "constants", constants);
        JsValue::from(entry)
    };
    diffmoe::kernels::all_sources().into_iter().map(entry).collect()
}

/// The time at which a model's refiner takes over and its tokens per image; null if the model has none.
fn refiner(config: &Config) -> JsValue {
    let Some(refiner) = &config.refiner else { return JsValue::NULL };
    let object = Object::new();
    set(&object, "from", refiner.from);
    set(&object, "tokens", refiner.config.tokens() as u32);
    object.into()
}

/// Size and channels of the latents of a model; null where it makes pixels.
fn latent(config: &Config) -> JsValue {
    if config.makes_pixels() {
        return JsValue::NULL;
    }
    let latent = Object::new();
    set_size(&latent, config.input_size);
    set(&latent, "channels", config.in_channels as u32);
    latent.into()
}

fn set_size(object: &Object, [height, width]: [usize; 2]) {
    set(object, "width", width as u32);
    set(object, "height", height as u32);
}

fn rgba(samples: &[f32], size: [usize; 2]) -> Uint8ClampedArray {
    Uint8ClampedArray::from(pixels::rgba(samples, size).as_slice())
}

impl Inner {
    async fn sample(&self, value: JsValue) -> Result<JsValue, JsValue> {
        let config = self.checkpoint.config();
        let options = options::sample(value).map_err(error)?;
        let like = options::like(&options, config).map_err(error)?;
        let enlargement = options::enlargement(&options).map_err(error)?;
        let settings = options::settings(&options, config, like.as_ref(), platform::new_seed());
        let settings = settings.map_err(error)?;
        if !config.makes_pixels() && self.decoder.is_none() {
            return Err(error(format!(
                "{} generates latents with {} channels: pass their image decoder to `create` \
                 as `vae`, the URL or the bytes of a safetensors file of diffusers with an \
                 AutoencoderKL or an AutoencoderTiny",
                config.name, config.in_channels
            )));
        }
        let listener = Listener::new(&options)?;
        listener.check()?;
        let run = self.run(settings, &listener).await?;
        let samples = match &self.decoder {
            None => run.latent().to_vec(),
            Some(decoder) => {
                let latents = run.latent().to_vec();
                decoder.decode(latents, config.input_size, &listener).await?
            }
        };
        let result = Object::new();
        set_size(&result, self.size());
        set(&result, "count", run.settings().images() as u32);
        set(&result, "seed", run.settings().sampling.seed as f64);
        set(&result, "rgba", rgba(&samples, self.size()));
        set(&result, "device", self.model.borrow().device());
        set(&result, "capacity", run.trace().capacity().map_or(JsValue::NULL, JsValue::from));
        if options.get("trace").is_none_or(|wanted| wanted.is_truthy()) {
            let text = run.trace().to_json().map_err(error)?;
            set(&result, "trace", JSON::parse(&text)?);
        }
        if options.get("png").is_some_and(|wanted| wanted.is_truthy()) {
            let png = self.png(run.settings(), &samples, enlargement).await?;
            set(&result, "png", Uint8Array::from(png.as_slice()));
        }
        Ok(result.into())
    }

    /// The images as one PNG file with its settings inside.
    async fn png(
        &self,
        settings: &Settings,
        samples: &[f32],
        (scale, smooth): (Option<u32>, bool),
    ) -> Result<Vec<u8>, JsValue> {
        let config = self.checkpoint.config();
        let recipe = Recipe {
            model: Some(self.label.clone()),
            hash: Some(checksum(&self.checkpoint).await),
            decoder: self.decoder_label.clone(),
            scale,
            smooth,
            ..Recipe::of(settings, config)
        };
        let texts = png_texts(&recipe, &settings.names(config), self.size());
        pixels::grid_extent(settings.images(), self.size(), scale).map_err(error)?;
        let grid = if smooth { pixels::smooth_grid } else { pixels::grid };
        grid(samples, self.size(), scale).to_png(&texts).map_err(error)
    }

    /// Height and width of a finished image, in pixels.
    fn size(&self) -> [usize; 2] {
        let factor = self.decoder.as_ref().map_or(1, |decoder| decoder.file.factor());
        self.checkpoint.config().input_size.map(|side| side * factor)
    }

    /// Samples to the end; resumes from the last finished step on a new device if one is lost.
    async fn run(&self, settings: Settings, listener: &Listener) -> Result<Run, JsValue> {
        let config = self.checkpoint.config();
        let batch = settings.images();
        let mut generation = self.generation.get();
        let model = self.model.borrow().clone();
        let engine = model.engine_async(batch).await.map_err(error)?;
        let mut run = Run::start(engine, config, settings, 0).map_err(error)?;
        let mut losses = 0;
        loop {
            let advance = |budget: usize| {
                // Several steps may arrive at once.
                let mut finished = Vec::new();
                let keep = |step: &Snapshot| finished.push((step.steps, step.latent.clone()));
                let progress = run.advance_with(budget, keep);
                for (step, latent) in finished {
                    self.tell(step, &latent, run.settings(), listener)?;
                    listener.check()?;
                }
                Ok(progress)
            };
            match slices(listener, advance).await? {
                Ok(()) => return Ok(run),
                Err(failure) => {
                    losses = lost_again(losses, failure)?;
                    let model = self.reopened(generation).await?;
                    let engine = model.engine_async(batch).await.map_err(error)?;
                    generation = self.generation.get();
                    let settings = run.settings().clone();
                    run = Run::resume(engine, config, settings, run.state()).map_err(error)?;
                }
            }
        }
    }

    /// Shows a finished step: the images as they are, or a preview of the latents.
    fn tell(
        &self,
        step: u32,
        latent: &[f32],
        settings: &Settings,
        listener: &Listener,
    ) -> Result<(), JsValue> {
        let size = self.checkpoint.config().input_size;
        let images = || match &self.decoder {
            None => rgba(latent, size),
            Some(decoder) => rgba(&decoder.preview(latent, size), size),
        };
        listener.step(step, settings.steps_taken(), size, images)
    }

    /// The model on a device younger than `generation`.
    async fn reopened(&self, generation: u32) -> Result<Pipeline, JsValue> {
        if self.generation.get() == generation {
            let request = platform::open_model(&self.checkpoint, self.backend, self.workers);
            let model = request.await.map_err(error)?;
            *self.model.borrow_mut() = model;
            self.generation.set(generation + 1);
        }
        Ok(self.model.borrow().clone())
    }
}

/// Checks that a decoder is needed and fits before it is put on a device.
async fn open_decoder(
    config: &Config,
    label: &str,
    bytes: Bytes,
    backend: Backend,
) -> Result<Decoder, JsValue> {
    if config.makes_pixels() {
        return Err(error(format!("{} generates pixels; remove vae", config.name)));
    }
    let file = DecoderFile::from_bytes(label, bytes).map_err(error)?;
    check_decoder(&file, config).map_err(error)?;
    Decoder::open(file, backend).await
}
