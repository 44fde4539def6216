//! Loading a model or an image decoder onto a device in the background, from a name, a file or a URL. The content of
//! the file determines which of the two it is.

use std::ops::Deref;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use super::decoder::OpenedDecoder;
use super::{ModelInfo, Phase, Share};
use crate::platform::{self, Bytes, Task, Transfer, Waker};
use diffmoe::checkpoint::{Checkpoint, CheckpointError, TensorFile};
use diffmoe::pipeline::{Backend, Pipeline, Recipe};
use diffmoe::vae::DecoderFile;

/// Where a model or a decoder comes from.
#[derive(Clone, Debug)]
pub enum ModelSource {
    /// Embedded in the program, or hosted with the page.
    Named(String),
    /// A file that was dropped or picked, by its content.
    File {
        /// Its name, without folders.
        name: String,
        /// What is in it.
        bytes: Arc<Bytes>,
    },
    /// A file on disk: one safetensors file, or the index of a sharded one.
    Path(PathBuf),
    /// A file on the web.
    Url(String),
}

impl ModelSource {
    /// Its name in a link: enough to find an embedded model or a URL again.
    pub fn name(&self) -> String {
        match self {
            Self::Named(name) | Self::File { name, .. } => name.clone(),
            Self::Url(address) => address.clone(),
            Self::Path(path) => {
                path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
            }
        }
    }

    /// The same, short enough for a progress bar.
    pub(super) fn short_name(&self) -> String {
        let name = self.name();
        let file = name.rsplit('/').next().filter(|file| !file.is_empty());
        file.unwrap_or(&name).to_owned()
    }
}

/// Models that need no file.
pub(super) fn available() -> Vec<String> {
    platform::built_in_names()
}

/// A model on a device.
pub(super) struct Opened {
    pub(super) info: ModelInfo,
    pub(super) checkpoint: Arc<Checkpoint>,
    pub(super) model: Pipeline,
}

/// What was in a file, on a device.
pub(super) enum Loaded {
    Model(Box<Opened>),
    Decoder(Box<OpenedDecoder>),
}

/// What is in a file.
#[derive(Clone)]
enum Content {
    Model(Arc<Checkpoint>),
    Decoder(Arc<DecoderFile>),
}

/// A model or a decoder being loaded onto a device.
pub(super) struct Loading {
    source: ModelSource,
    /// The run to show with it.
    pub(super) share: Option<Share>,
    /// Whether another model was requested since; it is then used only if it is a decoder.
    pub(super) is_superseded: bool,
    transfer: Transfer,
    /// Set once the file has arrived and its kind is known.
    content: Arc<OnceLock<Content>>,
    task: Task<Result<Loaded, String>>,
    /// Its result, while it waits for others.
    result: Option<Result<Loaded, String>>,
}

impl Loading {
    /// Begins to load.
    pub(super) fn begin(
        source: ModelSource,
        share: Option<Share>,
        backend: Backend,
        waker: &Waker,
    ) -> Self {
        let (transfer, content) = (Transfer::default(), Arc::new(OnceLock::new()));
        let (from, counted, read) = (source.clone(), transfer.clone(), content.clone());
        let task = platform::spawn(waker.clone(), move || async move {
            let found = read_content(&from, &counted).await?;
            let hash = match &found {
                Content::Model(checkpoint) => checksum(checkpoint).await,
                Content::Decoder(_) => String::new(),
            };
            if let Content::Model(checkpoint) = &found {
                checkpoint.reset_progress();
            }
            // It is set only here.
            let _ = read.set(found.clone());
            match found {
                Content::Model(checkpoint) => {
                    open(from, checkpoint, hash, backend).await.map(|m| Loaded::Model(Box::new(m)))
                }
                Content::Decoder(file) => {
                    let name = from.short_name();
                    let opened = OpenedDecoder::open(from, name, file, backend).await;
                    opened.map(|decoder| Loaded::Decoder(Box::new(decoder)))
                }
            }
        });
        let (is_superseded, result) = (false, None);
        Self { source, share, is_superseded, transfer, content, task, result }
    }

    /// Its progress.
    pub(super) fn phase(&self) -> Phase {
        let name = self.source.short_name();
        let opening = |what: String, (done, total): (usize, usize)| Phase::Opening {
            what,
            done: done.min(total),
            total,
        };
        match self.content.get() {
            None => {
                let (done, total) = (self.transfer.done(), self.transfer.total());
                Phase::Fetching { name, done, total }
            }
            Some(Content::Model(checkpoint)) => {
                opening(format!("weights of {name}"), checkpoint.progress())
            }
            Some(Content::Decoder(file)) => opening(format!("decoder {name}"), file.progress()),
        }
    }

    /// Checks whether it has finished.
    pub(super) fn look(&mut self) {
        if self.result.is_none() {
            self.result = self.task.take();
        }
    }

    /// Whether it is known to be a decoder.
    pub(super) fn is_decoder(&self) -> bool {
        matches!(self.content.get(), Some(Content::Decoder(_)))
    }

    /// Whether there is a result.
    pub(super) fn has_ended(&self) -> bool {
        self.result.is_some()
    }

    /// The result.
    pub(super) fn into_result(self) -> Option<Result<Loaded, String>> {
        self.result
    }
}

/// Shared bytes.
struct Shared(Arc<Bytes>);

impl Deref for Shared {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.0
    }
}

async fn read_content(source: &ModelSource, transfer: &Transfer) -> Result<Content, String> {
    let label = source.short_name();
    let told = |error: CheckpointError| error.to_string();
    let bytes = match source {
        ModelSource::Named(name) => {
            let Some(bytes) = platform::built_in(name, transfer).await else {
                let names = available().join(", ");
                return Err(format!("unknown model {name:?}: expected {names}"));
            };
            bytes.map_err(|error| error.to_string())?
        }
        ModelSource::File { bytes, .. } => Bytes::new(Shared(bytes.clone())),
        ModelSource::Path(path) => return content(TensorFile::open(path).map_err(told)?),
        ModelSource::Url(address) => {
            platform::fetch(address, transfer).await.map_err(|error| error.to_string())?
        }
    };
    content(TensorFile::from_bytes(&label, bytes).map_err(told)?)
}

/// A decoder or a model, by its tensor names.
fn content(tensors: TensorFile) -> Result<Content, String> {
    if DecoderFile::kind_of(&tensors).is_some() {
        let file = DecoderFile::from_tensors(tensors).map_err(|error| error.to_string())?;
        return Ok(Content::Decoder(Arc::new(file)));
    }
    let checkpoint = Checkpoint::from_file(tensors).map_err(|error| error.to_string())?;
    Ok(Content::Model(Arc::new(checkpoint)))
}

/// First digits of the SHA-256 of a model's file, or of the sums of its files one after the other.
pub async fn checksum(checkpoint: &Checkpoint) -> String {
    let mut sums = Vec::new();
    for file in checkpoint.files() {
        sums.push(platform::sha256(file).await);
    }
    let sum = match sums.as_slice() {
        [sum] => *sum,
        sums => platform::sha256(sums.as_flattened()).await,
    };
    Recipe::short_hash(sum)
}

async fn open(
    source: ModelSource,
    checkpoint: Arc<Checkpoint>,
    hash: String,
    backend: Backend,
) -> Result<Opened, String> {
    // The checksum copied the file, and workers are about to: a page answers in between.
    diffmoe::platform::yield_now().await;
    let model = platform::open_model(&checkpoint, backend, None)
        .await
        .map_err(|error| error.to_string())?;
    let config = Arc::new(checkpoint.config().clone());
    let info = ModelInfo {
        name: match &source {
            ModelSource::Named(name) => name.clone(),
            _ => config.name.clone(),
        },
        source,
        config,
        device: model.device(),
        backend_note: model.note().map(str::to_owned),
        memory_bytes: model.memory_bytes(),
        file_bytes: checkpoint.bytes(),
        hash,
    };
    Ok(Opened { info, checkpoint, model })
}
