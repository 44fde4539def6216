//! A decoder's file: which of the two kinds it is, its settings, and the plan that follows from its tensors.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde::Deserialize;

use super::build;
use super::memory::Slabs;
use super::plan::Plan;
use crate::checkpoint::{CheckpointError, TensorFile};
use crate::engine::EngineError;
use crate::platform::Bytes;

/// Which decoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DecoderKind {
    /// `AutoencoderKL`: residual blocks with group norms, one attention layer.
    Kl,
    /// `AutoencoderTiny`: residual blocks of three convolutions, nothing else.
    Tiny,
}

/// An image decoder in a safetensors file of diffusers, checked and ready to be put on a device.
#[derive(Debug)]
pub struct DecoderFile {
    /// Its tensors; the encoder's may be among them and are ignored.
    pub(super) tensors: TensorFile,
    pub(super) plan: Plan,
    pub(super) numbers: Numbers,
    kind: DecoderKind,
    /// Layers whose weights were loaded, for a progress bar.
    loaded: AtomicUsize,
}

/// Scaling of inputs and outputs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Numbers {
    /// The latents of a model are the autoencoder's times this.
    scaling: f32,
    /// Added to the autoencoder's latents after the division by `scaling`.
    shift: f32,
    is_tiny: bool,
}

impl Numbers {
    /// Latents of a model as the autoencoder's own.
    pub(super) fn unscale(self, latents: &[f32]) -> Vec<f32> {
        latents.iter().map(|z| z / self.scaling + self.shift).collect()
    }

    /// What the first layer sees of an autoencoder's latent.
    pub(super) fn enter(self, latent: &[f32]) -> Vec<f32> {
        // `AutoencoderTiny` bounds its input softly. These are a few thousand numbers that come from the
        // host anyway, so no kernel does it.
        let bound = |&z: &f32| if self.is_tiny { 3.0 * libm::tanhf(z / 3.0) } else { z };
        latent.iter().map(bound).collect()
    }

    /// The last layer's output as an image in [-1, 1]; `AutoencoderTiny` makes them in [0, 1].
    pub(super) fn leave(self, image: &mut [f32]) {
        if self.is_tiny {
            for v in image {
                *v = 2.0 * *v - 1.0;
            }
        }
    }
}

/// The keys of a diffusers `config.json` that cannot be inferred from the tensors.
#[derive(Default, Deserialize)]
struct Document {
    norm_num_groups: Option<usize>,
    scaling_factor: Option<f32>,
    shift_factor: Option<f32>,
    act_fn: Option<String>,
    upsample_fn: Option<String>,
    upsampling_scaling_factor: Option<usize>,
    latents_mean: Option<Vec<f32>>,
}

/// Group norms of the Stable Diffusion autoencoders, the default.
const GROUPS: usize = 32;

/// The default scaling factor of `AutoencoderKL`; DiffMoE was trained with it.
const SCALING: f32 = 0.18215;

impl DecoderKind {
    /// Its name in diffusers.
    pub fn name(self) -> &'static str {
        match self {
            Self::Kl => "AutoencoderKL",
            Self::Tiny => "AutoencoderTiny",
        }
    }
}

impl DecoderFile {
    /// Opens a decoder. Its settings come from the file's header or from `config.json` in the same folder;
    /// without any, those of the Stable Diffusion autoencoders hold.
    ///
    /// # Errors
    /// When the file cannot be read, is not a supported decoder, or its tensors do not fit together.
    pub fn open(path: &Path) -> Result<Self, EngineError> {
        Self::from_tensors(TensorFile::open(path)?)
    }

    /// A decoder that is in memory already.
    ///
    /// # Errors
    /// As [`DecoderFile::open`].
    pub fn from_bytes(label: &str, bytes: Bytes) -> Result<Self, EngineError> {
        Self::from_tensors(TensorFile::from_bytes(label, bytes)?)
    }

    /// Which kind of decoder is in a file, if one is.
    pub fn kind_of(tensors: &TensorFile) -> Option<DecoderKind> {
        if tensors.contains("decoder.conv_in.weight") {
            Some(DecoderKind::Kl)
        } else if tensors.contains("decoder.layers.0.weight") {
            Some(DecoderKind::Tiny)
        } else {
            None
        }
    }

    /// As [`DecoderFile::open`], for a file that was opened already.
    ///
    /// # Errors
    /// As [`DecoderFile::open`].
    pub fn from_tensors(tensors: TensorFile) -> Result<Self, EngineError> {
        let label = tensors.label().to_owned();
        if let Some(layout) = foreign_layout(&tensors) {
            return Err(EngineError::Decoder(format!("{label} {layout}")));
        }
        let Some(kind) = Self::kind_of(&tensors) else {
            return Err(EngineError::Decoder(format!(
                "{label} is not an image decoder; expected a safetensors file of diffusers \
                 with an AutoencoderKL (such as sd-vae-ft-mse) or an AutoencoderTiny (such as \
                 taesd)"
            )));
        };
        let document: Document = match tensors.config_text() {
            None => Document::default(),
            Some(text) => serde_json::from_str(text).map_err(|error| {
                EngineError::Decoder(format!("configuration of {label}: {error}"))
            })?,
        };
        document.check(kind).map_err(|reason| {
            EngineError::Decoder(format!("{label} is not supported: {reason}"))
        })?;
        let is_tiny = kind == DecoderKind::Tiny;
        let built = match kind {
            DecoderKind::Kl => build::kl(&tensors, document.norm_num_groups.unwrap_or(GROUPS)),
            DecoderKind::Tiny => build::tiny(&tensors),
        };
        let plan = built.map_err(|problems| CheckpointError::Mismatch { label, problems })?;
        let numbers = Numbers {
            scaling: document.scaling_factor.unwrap_or(if is_tiny { 1.0 } else { SCALING }),
            shift: document.shift_factor.unwrap_or(0.0),
            is_tiny,
        };
        Ok(Self { tensors, plan, numbers, kind, loaded: AtomicUsize::new(0) })
    }

    /// Loaded layers and their total number: the progress of loading.
    pub fn progress(&self) -> (usize, usize) {
        (self.loaded.load(Ordering::Relaxed), self.plan.steps.len())
    }

    /// Starts [`DecoderFile::progress`] again.
    pub(super) fn begin_loading(&self) {
        self.loaded.store(0, Ordering::Relaxed);
    }

    /// Counts a layer in [`DecoderFile::progress`].
    pub(super) fn loaded_layer(&self) {
        self.loaded.fetch_add(1, Ordering::Relaxed);
    }

    /// Which decoder it is.
    pub fn kind(&self) -> DecoderKind {
        self.kind
    }

    /// Channels of a latent.
    pub fn latent_channels(&self) -> usize {
        self.plan.values[0].channels
    }

    /// Pixels along a latent cell.
    pub fn factor(&self) -> usize {
        self.plan.output().scale
    }

    /// The latents of a model are the autoencoder's times this.
    pub fn scaling(&self) -> f32 {
        self.numbers.scaling
    }

    /// Channels of the feature maps after each layer that changes them, for descriptions.
    pub fn widths(&self) -> Vec<usize> {
        let mut widths: Vec<usize> = self.plan.values.iter().map(|v| v.channels).collect();
        widths.dedup();
        widths
    }

    /// Numbers in the decoder's tensors.
    pub fn parameters(&self) -> usize {
        self.plan.tensors.iter().filter_map(|name| self.tensors.shape(name).ok()).map(len).sum()
    }

    /// Bytes of its file or files, with everything in them.
    pub fn bytes(&self) -> u64 {
        self.tensors.files().map(|file| file.len() as u64).sum()
    }

    /// Where the file came from.
    pub fn label(&self) -> &str {
        self.tensors.label()
    }

    /// Bytes of feature maps on a GPU for a latent of `[height, width]` with the bindings that WebGPU
    /// guarantees; nothing where the image is too large for them.
    pub fn activation_bytes(&self, size: [usize; 2]) -> Option<u64> {
        /// Elements of a binding.
        const BINDING: usize = (128 << 20) / 4;
        Slabs::plan(&self.plan, size, BINDING).map(|slabs| slabs.bytes())
    }

    /// Multiply-adds for a latent of `[height, width]`, in convolutions and attention.
    pub fn multiply_adds(&self, size: [usize; 2]) -> u64 {
        self.plan.multiply_adds(size)
    }
}

/// Recognises decoders with other tensor names than in diffusers; the end of an error message.
fn foreign_layout(tensors: &TensorFile) -> Option<&'static str> {
    let has = |prefix: &str| tensors.names().any(|name| name.starts_with(prefix));
    if has("first_stage_model.decoder.") {
        Some(
            "is a whole Stable Diffusion model in its original layout; save only its autoencoder, with diffusers: \
             AutoencoderKL.from_single_file(FILE).save_pretrained(FOLDER)",
        )
    } else if has("decoder.up.") && has("decoder.mid.") {
        Some(
            "is an AutoencoderKL in the layout of the original code (LDM); convert it to diffusers: \
             AutoencoderKL.from_single_file(FILE).save_pretrained(FOLDER)",
        )
    } else if tensors.contains("1.weight") && tensors.contains("3.conv.0.weight") {
        Some(
            "has the original layout of TAESD; use the diffusers file instead, such as that of madebyollin/taesd \
             (diffusion_pytorch_model.safetensors)",
        )
    } else {
        None
    }
}

fn len(shape: &[usize]) -> usize {
    shape.iter().product()
}

impl Document {
    /// Rejects settings that would decode incorrectly.
    fn check(&self, kind: DecoderKind) -> Result<(), String> {
        let activation = match kind {
            DecoderKind::Kl => "silu",
            DecoderKind::Tiny => "relu",
        };
        if let Some(name) = self.act_fn.as_deref().filter(|name| *name != activation) {
            return Err(format!("act_fn {name:?}; only {activation:?} is supported"));
        }
        if let Some(name) = self.upsample_fn.as_deref().filter(|name| *name != "nearest") {
            return Err(format!("upsample_fn {name:?}; only \"nearest\" is supported"));
        }
        if let Some(factor) = self.upsampling_scaling_factor.filter(|factor| *factor != 2) {
            return Err(format!("upsampling_scaling_factor {factor}; only 2 is supported"));
        }
        if self.latents_mean.is_some() {
            return Err(
                "latents_mean; only a scaling factor and a shift factor are supported".into()
            );
        }
        let scaling = self.scaling_factor.unwrap_or(1.0);
        if !scaling.is_finite() || scaling <= 0.0 {
            return Err(format!("scaling_factor {scaling}; it must be a positive number"));
        }
        if self.shift_factor.is_some_and(|shift| !shift.is_finite()) {
            return Err("a shift_factor that is not a number".into());
        }
        if self.norm_num_groups == Some(0) {
            return Err("norm_num_groups 0".into());
        }
        Ok(())
    }
}
