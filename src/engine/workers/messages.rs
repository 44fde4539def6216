//! What a page and its workers tell each other.

use super::codec::Packed;
use super::twins::Part;
use crate::engine::{RunConfig, Snapshot};
use crate::scheduler::Latent;

/// To a worker.
pub(super) enum Request {
    /// Take this model.
    Load {
        /// Name of the file in errors.
        label: String,
        /// A whole safetensors file.
        file: Vec<u8>,
    },
    /// Begin a run; one before it on this engine is dropped.
    Start {
        /// Number of the engine; a new number makes a new engine.
        engine: u32,
        /// Number of the run; its snapshots carry it.
        run: u32,
        /// `B` of this worker.
        batch: usize,
        /// Whether a new engine is one of the model's refiner.
        is_refiner: bool,
        /// The worker's part of the run.
        config: Box<RunConfig>,
    },
    /// Compute a step after those that were sent before.
    Step {
        /// Number of the engine.
        engine: u32,
        /// The worker's part of the step.
        parts: Vec<Part>,
    },
    /// A result of the twin.
    Output {
        /// Number of the engine.
        engine: u32,
        /// Number of the run.
        run: u32,
        /// Which result.
        output: Latent,
        /// `[B, out_channels, height, width]`
        values: Vec<f32>,
    },
    /// Drop an engine.
    Free {
        /// Number of the engine.
        engine: u32,
    },
    /// Give a sign of life.
    Ping,
}

/// From a worker.
pub(super) enum Reply {
    /// The model was loaded, or the reason why not.
    Loaded(Option<String>),
    /// A result for the twin.
    Output {
        /// Number of the engine.
        engine: u32,
        /// Number of the run.
        run: u32,
        /// Which result.
        output: Latent,
        /// `[B, out_channels, height, width]`
        values: Vec<f32>,
    },
    /// A step is finished.
    Step {
        /// Number of the engine.
        engine: u32,
        /// Number of the run.
        run: u32,
        /// The worker's part of the snapshot.
        snapshot: Box<Snapshot>,
    },
    /// A sign of life.
    Pong,
}

impl Request {
    /// [`Request::Load`] as bytes, without a copy of the file before.
    pub(super) fn load(label: &str, file: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(file.len() + label.len() + 16);
        0_u8.put(&mut out);
        label.to_owned().put(&mut out);
        out.extend_from_slice(file);
        out
    }

    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        match self {
            Self::Load { label, file } => return Self::load(label, file),
            Self::Start { engine, run, batch, is_refiner, config } => {
                1_u8.put(&mut out);
                ([*engine, *run], *batch).put(&mut out);
                is_refiner.put(&mut out);
                config.put(&mut out);
            }
            Self::Step { engine, parts } => {
                2_u8.put(&mut out);
                engine.put(&mut out);
                parts.put(&mut out);
            }
            Self::Free { engine } => (3_u8, *engine).put(&mut out),
            Self::Output { engine, run, output, values } => {
                (4_u8, [*engine, *run]).put(&mut out);
                output.put(&mut out);
                values.put(&mut out);
            }
            Self::Ping => 5_u8.put(&mut out),
        }
        out
    }

    pub(super) fn from_bytes(mut from: &[u8]) -> Option<Self> {
        let from = &mut from;
        Some(match u8::get(from)? {
            0 => Self::Load { label: Packed::get(from)?, file: from.to_vec() },
            1 => {
                let [engine, run] = <[u32; 2]>::get(from)?;
                let (batch, is_refiner) = (Packed::get(from)?, Packed::get(from)?);
                let config = Box::new(Packed::get(from)?);
                Self::Start { engine, run, batch, is_refiner, config }
            }
            2 => Self::Step { engine: Packed::get(from)?, parts: Packed::get(from)? },
            3 => Self::Free { engine: Packed::get(from)? },
            4 => {
                let [engine, run] = <[u32; 2]>::get(from)?;
                let (output, values) = (Packed::get(from)?, Packed::get(from)?);
                Self::Output { engine, run, output, values }
            }
            5 => Self::Ping,
            _ => return None,
        })
    }
}

impl Reply {
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        match self {
            Self::Loaded(failure) => {
                0_u8.put(&mut out);
                failure.put(&mut out);
            }
            Self::Step { engine, run, snapshot } => {
                1_u8.put(&mut out);
                [*engine, *run].put(&mut out);
                snapshot.put(&mut out);
            }
            Self::Output { engine, run, output, values } => {
                (2_u8, [*engine, *run]).put(&mut out);
                output.put(&mut out);
                values.put(&mut out);
            }
            Self::Pong => 3_u8.put(&mut out),
        }
        out
    }

    pub(super) fn from_bytes(mut from: &[u8]) -> Option<Self> {
        let from = &mut from;
        Some(match u8::get(from)? {
            0 => Self::Loaded(Packed::get(from)?),
            1 => {
                let [engine, run] = <[u32; 2]>::get(from)?;
                Self::Step { engine, run, snapshot: Box::new(Packed::get(from)?) }
            }
            2 => {
                let [engine, run] = <[u32; 2]>::get(from)?;
                let (output, values) = (Packed::get(from)?, Packed::get(from)?);
                Self::Output { engine, run, output, values }
            }
            3 => Self::Pong,
            _ => return None,
        })
    }
}
