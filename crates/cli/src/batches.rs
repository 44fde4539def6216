//! Sampling one batch after another, with one progress bar for all of them.

use std::ops::Range;

use diffmoe::checkpoint::Checkpoint;
use diffmoe::engine::{CpuMath, Engine, WeightChoice};
use diffmoe::model::Config;
use diffmoe::pipeline::{Backend, Pipeline, Run, Sampling, Settings};
use diffmoe::trace::Trace;
use indicatif::{ProgressBar, ProgressStyle};

/// Units of the progress bar in one image.
const PROGRESS: u64 = 1000;

/// A model on its device, and the engine of the last batch.
pub(super) struct Batches<'a> {
    config: &'a Config,
    settings: &'a Settings,
    model: Pipeline,
    ready: Option<Box<dyn Engine>>,
    bar: ProgressBar,
}

/// What one batch leaves behind.
pub(super) struct Drawn {
    /// `[B, C, h, w]`; pixels in [-1, 1] or latents, all finite.
    pub(super) samples: Vec<f32>,
    pub(super) trace: Trace,
}

/// Where and how a model is computed.
pub(super) struct Device {
    pub(super) backend: Backend,
    /// On a GPU
    pub(super) weights: WeightChoice,
    /// On the CPU; what is not f32 selects the CPU.
    pub(super) math: CpuMath,
}

impl<'a> Batches<'a> {
    /// Opens the model, and a bar for this many images of those that the settings describe.
    pub(super) fn open(
        checkpoint: &'a Checkpoint,
        settings: &'a Settings,
        Device { backend, weights, math }: Device,
        images: usize,
    ) -> Result<Self, Box<dyn std::error::Error>> {
        let config = checkpoint.config();
        let model = match (math, backend) {
            (CpuMath::F32, _) => Pipeline::open(checkpoint, backend, weights)?,
            (math, Backend::Gpu) => {
                return Err(
                    format!("--cpu-math {math} is for the CPU: leave --backend gpu out").into()
                );
            }
            (math, _) => Pipeline::cpu_with(checkpoint, math)?,
        };
        if let Some(note) = model.note() {
            eprintln!("note: {note}");
        }
        eprintln!("{}", headline(config, settings, images, &model.device()));
        let bar = ProgressBar::new(images as u64 * PROGRESS);
        bar.set_style(ProgressStyle::with_template("{msg} {wide_bar} {percent} %, {eta} left")?);
        Ok(Self { config, settings, model, ready: None, bar })
    }

    /// Description of the device.
    pub(super) fn device(&self) -> String {
        self.model.device()
    }

    /// Draws these images of the whole as one batch, whose tokens are one pool.
    pub(super) fn draw(
        &mut self,
        images: Range<usize>,
    ) -> Result<Drawn, Box<dyn std::error::Error>> {
        let size = images.len();
        // The last batch may be smaller than the others.
        let engine = match self.ready.take() {
            Some(engine) if engine.batch() == size => engine,
            _ => self.model.engine(size)?,
        };
        let first = images.start as u64;
        let run = Run::start(engine, self.config, self.settings.part(images), first)?;
        let done = self.bar.position();
        let part = (size as u64 * PROGRESS) as f32;
        let bar = &self.bar;
        let finished = run.finish(|fraction| bar.set_position(done + (fraction * part) as u64))?;
        self.ready = Some(finished.engine);
        if finished.samples.iter().any(|v| !v.is_finite()) {
            return Err("the model produced values that are not finite in f32. Try a smaller \
                --guidance, and check the weights"
                .into());
        }
        Ok(Drawn { samples: finished.samples, trace: finished.trace })
    }
}

impl Drop for Batches<'_> {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

fn headline(config: &Config, settings: &Settings, images: usize, device: &str) -> String {
    let Sampling {
        steps, guidance, guidance_interval: interval, scheduler, seed, strength, ..
    } = &settings.sampling;
    let taken = settings.steps_taken();
    let steps =
        if taken < *steps { format!("{taken} of {steps} steps") } else { format!("{steps} steps") };
    let steps = (!scheduler.is_adaptive()).then_some(steps);
    let options = scheduler.changed_options();
    let options =
        options.map(|(option, value)| format!("{} {}", option.name, option.format(value)));
    let parts: Vec<_> =
        std::iter::once(scheduler.to_string()).chain(steps).chain(options).collect();
    let scheduler = parts.join(", ");
    let interval = if interval.is_whole() {
        String::new()
    } else {
        format!(" at {}–{}", interval.low, interval.high)
    };
    let spin = settings.sampling.cycle_spin;
    let is_spun = !spin.is_off() && settings.sampling.spins(config);
    let spin = if is_spun { format!(" · cycle spin {spin}") } else { String::new() };
    let other = (settings.sampling.variation_strength > 0.0).then(|| {
        let Sampling { variation_seed, variation_strength, .. } = settings.sampling;
        format!(" mixed with {variation_strength} of {variation_seed}")
    });
    let other = other.unwrap_or_default();
    let others = settings.mix.iter().zip(&config.labels);
    let others = others.filter_map(|(row, table)| row.map(|row| table.label(row)));
    let others: Vec<_> = others.collect();
    let mixed = if others.is_empty() {
        String::new()
    } else {
        format!(
            " · labels blended with {} of {}",
            settings.sampling.mix_strength,
            others.join(", ")
        )
    };
    let from = settings.init.as_ref().map(|_| format!(" · from an image at strength {strength}"));
    let from = from.unwrap_or_default();
    format!(
        "{} · {device} · {images} images · {scheduler} · guidance {guidance}{interval}{spin} · seed {seed}{other}{mixed}{from}",
        config.name
    )
}
