//! Types of the interface between a session and a user interface.

use std::sync::Arc;

use super::{ModelSource, Share};
use crate::platform::Waker;
use diffmoe::model::Config;
use diffmoe::pipeline::Backend;

/// Start options of a session.
pub struct Start {
    /// The first model.
    pub model: ModelSource,
    /// An image decoder, for a model that generates latents.
    pub decoder: Option<ModelSource>,
    /// A shared run; its model is loaded first.
    pub share: Option<Share>,
    /// The device.
    pub backend: Backend,
    /// Whether to draw as soon as there is a model.
    pub draw_at_once: bool,
    /// Called when a frame should be painted without input.
    pub waker: Waker,
}

/// The phase of a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Phase {
    /// A model is being downloaded.
    Fetching {
        /// The model.
        name: String,
        /// Bytes that are here.
        done: u64,
        /// Total bytes, if the server reports them.
        total: Option<u64>,
    },
    /// A model is being loaded onto the device, or its working memory and kernels are created.
    Opening {
        /// Description of the current part.
        what: String,
        /// Parts done.
        done: usize,
        /// Parts in all; 0 where that is unknown.
        total: usize,
    },
    /// A model is there and nothing runs.
    Ready,
    /// Sampling.
    Running,
    /// Turning the latents of a finished run into images.
    Decoding {
        /// How much is done.
        percent: u8,
        /// Images in all.
        images: usize,
    },
    /// In the middle of a run or of decoding, waiting for [`Session::go_on`](super::Session::go_on) or [`Session::step`](super::Session::step).
    Paused,
    /// The device was lost; the run will resume on another one.
    Recovering,
    /// There is no model; see the notes.
    NoModel,
}

/// Severity of a note.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoteKind {
    /// An error.
    Error,
    /// Information.
    Info,
}

/// A message for the user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// Severity.
    pub kind: NoteKind,
    /// The text.
    pub text: String,
}

/// When to call [`Session::tick`](super::Session::tick) next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tick {
    /// At once: there is work to do here.
    Again,
    /// In about 16 ms: the device is busy.
    Later,
    /// When something happens; the waker is called.
    Idle,
}

impl Tick {
    /// The more urgent of two.
    pub(super) fn sooner(self, other: Self) -> Self {
        match (self, other) {
            (Self::Again, _) | (_, Self::Again) => Self::Again,
            (Self::Later, _) | (_, Self::Later) => Self::Later,
            _ => Self::Idle,
        }
    }
}

/// The model that is open.
#[derive(Clone, Debug)]
pub struct ModelInfo {
    /// Display name.
    pub name: String,
    /// Where it came from.
    pub source: ModelSource,
    /// Its shape, labels and recommended settings.
    pub config: Arc<Config>,
    /// Description of the device.
    pub device: String,
    /// Why this device, if the user did not choose it.
    pub backend_note: Option<String>,
    /// Bytes of weights on the device.
    pub memory_bytes: u64,
    /// Bytes of the file.
    pub file_bytes: u64,
    /// First digits of the file's SHA-256.
    pub hash: String,
}
