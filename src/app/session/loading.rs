//! From a name, a file or an address to a model on a device, in the background.

use std::ops::Deref;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use super::share::HASH_DIGITS;
use super::{ModelInfo, Phase, Share};
use crate::checkpoint::{Checkpoint, embedded};
use crate::model::{Config, WeightChoice};
use crate::platform::{self, Bytes, Task, Transfer, Waker};
use crate::sampler::{Backend, OpenModel};

/// Where a model comes from.
#[derive(Clone, Debug)]
pub enum ModelSource {
    /// Built into the program, or lying beside the page.
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
    /// What a link calls it: enough to find a built-in model or a file on the web again.
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
    fn short_name(&self) -> String {
        let name = self.name();
        let file = name.rsplit('/').next().filter(|file| !file.is_empty());
        file.unwrap_or(&name).to_owned()
    }
}

/// Models that need no file.
pub(super) fn available() -> Vec<String> {
    let mut names: Vec<String> = embedded::names().map(str::to_owned).collect();
    for name in platform::built_in_names() {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

/// A model on a device.
pub(super) struct Opened {
    pub(super) info: ModelInfo,
    pub(super) checkpoint: Arc<Checkpoint>,
    pub(super) model: OpenModel,
}

/// A model on its way to a device.
pub(super) struct Loading {
    source: ModelSource,
    /// The run to show with it.
    pub(super) share: Option<Share>,
    transfer: Transfer,
    /// There once the file is here and is a model.
    checkpoint: Arc<OnceLock<Arc<Checkpoint>>>,
    task: Task<Result<Opened, String>>,
}

impl Loading {
    /// Begins to load.
    pub(super) fn begin(
        source: ModelSource,
        share: Option<Share>,
        backend: Backend,
        waker: &Waker,
    ) -> Self {
        let (transfer, checkpoint) = (Transfer::default(), Arc::new(OnceLock::new()));
        let (from, counted, read) = (source.clone(), transfer.clone(), checkpoint.clone());
        let task = platform::spawn(waker.clone(), move || async move {
            let checkpoint = Arc::new(read_checkpoint(&from, &counted).await?);
            drawable(checkpoint.config())?;
            let hash = hash(&checkpoint).await;
            checkpoint.reset_progress();
            // Nobody else fills it.
            let _ = read.set(checkpoint.clone());
            open(from, checkpoint, hash, backend).await
        });
        Self { source, share, transfer, checkpoint, task }
    }

    /// How far it is.
    pub(super) fn phase(&self) -> Phase {
        let name = self.source.short_name();
        match self.checkpoint.get() {
            None => {
                let (done, total) = (self.transfer.done(), self.transfer.total());
                Phase::Fetching { name, done, total }
            }
            Some(checkpoint) => {
                let (done, total) = checkpoint.progress();
                Phase::Opening { what: format!("weights of {name}"), done: done.min(total), total }
            }
        }
    }

    /// The model, or a sentence why there is none; once.
    pub(super) fn take(&mut self) -> Option<Result<Opened, String>> {
        self.task.take()
    }
}

/// Bytes that are held in several places.
struct Shared(Arc<Bytes>);

impl Deref for Shared {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.0
    }
}

async fn read_checkpoint(source: &ModelSource, transfer: &Transfer) -> Result<Checkpoint, String> {
    let label = source.short_name();
    let bytes = match source {
        ModelSource::Named(name) => {
            if let Some(checkpoint) = embedded::open(name) {
                return checkpoint.map_err(|error| error.to_string());
            }
            let Some(bytes) = platform::built_in(name, transfer).await else {
                let names = available().join(", ");
                return Err(format!("there is no model {name:?}; choose one of {names}"));
            };
            bytes.map_err(|error| error.to_string())?
        }
        ModelSource::File { bytes, .. } => Bytes::new(Shared(bytes.clone())),
        ModelSource::Path(path) => {
            return Checkpoint::open(path).map_err(|error| error.to_string());
        }
        ModelSource::Url(address) => {
            platform::fetch(address, transfer).await.map_err(|error| error.to_string())?
        }
    };
    Checkpoint::from_bytes(&label, bytes).map_err(|error| error.to_string())
}

/// Refuses models whose samples this app cannot show.
fn drawable(config: &Config) -> Result<(), String> {
    if !config.pixels || config.in_channels != 3 {
        return Err(format!(
            "{} makes latents, and this app has no decoder for them; on the command line, `diffmoe sample --vae` draws \
             with such a model",
            config.name
        ));
    }
    Ok(())
}

/// First digits of the SHA-256 of a model's file, or of the sums of its files one after the other.
async fn hash(checkpoint: &Checkpoint) -> String {
    let mut sums = Vec::new();
    for file in checkpoint.files() {
        sums.push(platform::sha256(file).await);
    }
    let sum = match sums.as_slice() {
        [sum] => *sum,
        sums => platform::sha256(sums.as_flattened()).await,
    };
    let first = u32::from_be_bytes([sum[0], sum[1], sum[2], sum[3]]);
    format!("{first:0HASH_DIGITS$x}")
}

async fn open(
    source: ModelSource,
    checkpoint: Arc<Checkpoint>,
    hash: String,
    backend: Backend,
) -> Result<Opened, String> {
    let model = OpenModel::request(&checkpoint, backend, WeightChoice::Auto)
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
