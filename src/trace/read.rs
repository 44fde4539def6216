//! Reading traces from untrusted files, JSON or safetensors, both formats. Errors name what is wrong, and declared
//! sizes are checked against the data before they are used.

use half::f16;
use safetensors::{Dtype, SafeTensors};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::Trace;
use crate::engine::{ForwardRouting, LayerRouting, Scores};
use crate::model::MOST_EXPERTS;
use crate::scheduler::Branch;

/// Tokens of an image. Far beyond any model, and no product of sizes overflows.
const MOST_TOKENS: usize = 1 << 20;
/// Steps of a run. Tables of the app have a row for each.
const MOST_STEPS: u32 = 100_000;

/// Errors of reading a trace.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TraceError {
    /// Neither of the two forms.
    #[error(
        "not a trace: {0}; expected a JSON or safetensors file written by `diffmoe sample \
            --trace`"
    )]
    Unreadable(String),
    /// A version to come.
    #[error("the trace has format {0}, and this version reads 1 and 2; use a newer version")]
    Format(u32),
    /// The right form, but numbers that do not belong together.
    #[error("the trace is damaged: {0}; write it again")]
    Damaged(String),
}

fn damaged<T>(reason: impl Into<String>) -> Result<T, TraceError> {
    Err(TraceError::Damaged(reason.into()))
}

impl Trace {
    /// Reads a trace in either form: JSON begins with a brace.
    ///
    /// # Errors
    /// When the bytes are not a trace, or a damaged one.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, TraceError> {
        match bytes.trim_ascii_start().first() {
            Some(b'{') => Self::from_json(bytes),
            _ => Self::from_safetensors(bytes),
        }
    }

    /// Reads the JSON form.
    ///
    /// # Errors
    /// As [`Trace::from_bytes`].
    pub fn from_json(bytes: &[u8]) -> Result<Self, TraceError> {
        let unreadable = |error: serde_json::Error| TraceError::Unreadable(error.to_string());
        // Another format may have other keys, so it is looked at first.
        let Format { format } = serde_json::from_slice(bytes).map_err(unreadable)?;
        check_format(format)?;
        let document: Document = serde_json::from_slice(bytes).map_err(unreadable)?;
        let forwards = document.forwards.into_iter().map(|forward| ForwardRouting {
            step: forward.step,
            time: forward.time,
            branch: branch(forward.guided),
            scale: forward.scale,
            layers: forward.layers.into_iter().map(LayerDocument::routing).collect(),
        });
        let trace = Self {
            model: document.model,
            experts: document.experts,
            grid: document.grid,
            labels: document.labels,
            forwards: forwards.collect(),
        };
        trace.check()?;
        Ok(trace)
    }

    /// Reads the safetensors form.
    ///
    /// # Errors
    /// As [`Trace::from_bytes`].
    pub fn from_safetensors(bytes: &[u8]) -> Result<Self, TraceError> {
        let unreadable = |error: safetensors::SafeTensorError| {
            TraceError::Unreadable(format!("neither JSON nor safetensors ({error})"))
        };
        let (_, header) = SafeTensors::read_metadata(bytes).map_err(unreadable)?;
        let file = File {
            tensors: SafeTensors::deserialize(bytes).map_err(unreadable)?,
            entries: header.metadata().clone().unwrap_or_default(),
        };
        check_format(file.entry("format")?)?;
        let [passes, layers, pool] = *file.shape("masks")? else {
            return damaged("masks must have shape [passes, layers, tokens]");
        };
        let [_, _, experts] = *file.shape("counts")? else {
            return damaged("counts must have shape [passes, layers, experts]");
        };
        if experts > MOST_EXPERTS {
            return damaged(format!("{experts} experts, more than {MOST_EXPERTS}"));
        }
        let blocks = file.words("blocks", &[layers])?;
        let (steps, guided) = (file.words("step", &[passes])?, file.words("guided", &[passes])?);
        let times = file.floats("time", &[passes])?;
        let scales = file.has("scale").then(|| file.words("scale", &[passes])).transpose()?;
        let masks = file.masks(experts, &[passes, layers, pool])?;
        let all = [passes, layers, pool, experts];
        let gate = file.has("gate").then(|| file.halves("gate", &all)).transpose()?;
        let need = file.has("need").then(|| file.halves("need", &all)).transpose()?;
        let thresholds = match need {
            Some(_) if file.shape("thresholds")?.len() == 3 => {
                file.floats("thresholds", &[passes, layers, experts])?
            }
            Some(_) => file.floats("thresholds", &[layers, experts])?.repeat(passes),
            None => Vec::new(),
        };
        let layer = |pass: usize, layer: usize| {
            let i = pass * layers + layer;
            let scores = gate.as_ref().map(|gate| Scores {
                gate: part(gate, i, pool * experts),
                need: need.as_ref().map_or_else(Vec::new, |need| part(need, i, pool * experts)),
                thresholds: match need {
                    Some(_) => part(&thresholds, i, experts),
                    None => Vec::new(),
                },
            });
            LayerRouting { block: blocks[layer] as usize, masks: part(&masks, i, pool), scores }
        };
        let forward = |pass: usize| ForwardRouting {
            step: steps[pass],
            time: times[pass],
            branch: branch(guided[pass] != 0),
            scale: scales.as_ref().map_or(1, |scales| scales[pass]),
            layers: (0..layers).map(|i| layer(pass, i)).collect(),
        };
        let trace = Self {
            model: file.text("model")?.to_owned(),
            experts,
            grid: file.entry("grid")?,
            labels: file.entry("labels")?,
            forwards: (0..passes).map(forward).collect(),
        };
        trace.check()?;
        Ok(trace)
    }

    /// A trace of its parts, as [`Trace::new`] and [`Trace::extend`] would make it of a run.
    ///
    /// # Errors
    /// When they do not belong together.
    pub fn from_parts(
        model: &str,
        experts: usize,
        grid: [usize; 2],
        labels: Vec<Vec<String>>,
        forwards: Vec<ForwardRouting>,
    ) -> Result<Self, TraceError> {
        let trace = Self { model: model.to_owned(), experts, grid, labels, forwards };
        trace.check()?;
        Ok(trace)
    }

    /// Whether all numbers belong together, so that nothing that shows them has to look again.
    fn check(&self) -> Result<(), TraceError> {
        let tokens = self.grid[0].checked_mul(self.grid[1]);
        let Some(tokens @ 1..=MOST_TOKENS) = tokens else {
            return damaged(format!("a grid of {} × {} patches", self.grid[0], self.grid[1]));
        };
        if self.experts > MOST_EXPERTS {
            return damaged(format!("{} experts, more than {MOST_EXPERTS}", self.experts));
        }
        let blocks = self.blocks();
        let first = self.forwards.first().and_then(|forward| forward.layers.first());
        let pool = first.map_or(0, |layer| layer.masks.len());
        if !pool.is_multiple_of(tokens) || first.is_some() && (pool == 0 || self.experts == 0) {
            return damaged(format!(
                "masks of {pool} tokens for {} experts where an image has {tokens} tokens",
                self.experts
            ));
        }
        if !blocks.is_sorted_by(|a, b| a < b) {
            return damaged(format!("blocks {blocks:?} are not in ascending order"));
        }
        let images = pool / tokens;
        if first.is_some() && self.labels.iter().any(|names| names.len() != images) {
            return damaged(format!("the number of labels does not match {images} images"));
        }
        let mut step = 0;
        let likeness = first.map(|layer| kind(layer.scores.as_ref()));
        for (i, forward) in self.forwards.iter().enumerate() {
            let wrong = |what: &str| damaged(format!("pass {i} {what}"));
            if forward.step < step || forward.step >= MOST_STEPS {
                return wrong(&format!("is of step {} after step {step}", forward.step));
            }
            step = forward.step;
            if !forward.time.is_finite() {
                return wrong("has no time");
            }
            let divides = |side: usize| side.checked_rem(forward.scale as usize) == Some(0);
            if !self.grid.into_iter().all(divides) {
                return wrong("has tokens that do not divide the grid");
            }
            if !forward.layers.iter().map(|layer| layer.block).eq(blocks.iter().copied()) {
                return wrong("has other layers than the first");
            }
            for layer in &forward.layers {
                if layer.masks.len() != pool {
                    return wrong("has another number of tokens than the first");
                }
                let beyond = |mask: &u64| mask.checked_shr(self.experts as u32).unwrap_or(0) != 0;
                if layer.masks.iter().any(beyond) {
                    return wrong(&format!("has tokens of experts beyond the {}", self.experts));
                }
                if Some(kind(layer.scores.as_ref())) != likeness || !self.fits(layer) {
                    return wrong("has scores that do not belong to its masks");
                }
            }
        }
        Ok(())
    }

    /// Whether a layer's scores have the right sizes, and thresholds that can be compared.
    fn fits(&self, layer: &LayerRouting) -> bool {
        let Some(Scores { gate, need, thresholds }) = &layer.scores else { return true };
        let all = layer.masks.len() * self.experts;
        let has_need = need.len() == all && thresholds.len() == self.experts;
        let lacks_need = need.is_empty() && thresholds.is_empty();
        gate.len() == all && (has_need || lacks_need) && !thresholds.iter().any(|t| t.is_nan())
    }
}

/// Part `i` of a list in which every part has `len` numbers.
fn part<T: Clone>(list: &[T], i: usize, len: usize) -> Vec<T> {
    list[i * len..][..len].to_vec()
}

/// Whether there are scores, and whether needs are among them: the same in every layer of a run.
fn kind(scores: Option<&Scores>) -> Option<bool> {
    scores.map(|scores| scores.need.is_empty())
}

fn branch(guided: bool) -> Branch {
    if guided { Branch::Conditional } else { Branch::Unconditional }
}

fn check_format(format: u32) -> Result<(), TraceError> {
    match format {
        1 | 2 => Ok(()),
        0 => damaged("there is no format 0"),
        other => Err(TraceError::Format(other)),
    }
}

#[derive(Deserialize)]
struct Format {
    format: u32,
}

/// The fields of the JSON that do not follow from others.
#[derive(Deserialize)]
struct Document {
    model: String,
    experts: usize,
    grid: [usize; 2],
    labels: Vec<Vec<String>>,
    forwards: Vec<ForwardDocument>,
}

#[derive(Deserialize)]
struct ForwardDocument {
    step: u32,
    time: f32,
    guided: bool,
    #[serde(default = "one")]
    scale: u32,
    layers: Vec<LayerDocument>,
}

fn one() -> u32 {
    1
}

#[derive(Deserialize)]
struct LayerDocument {
    block: usize,
    masks: Vec<u64>,
    gate: Option<Vec<Option<f32>>>,
    need: Option<Vec<Option<f32>>>,
    thresholds: Option<Vec<Option<f32>>>,
}

impl LayerDocument {
    fn routing(self) -> LayerRouting {
        // JSON has neither NaN nor infinity; null stands for what can occur of them.
        let half = |value: Option<f32>| value.map_or(f16::NAN, f16::from_f32);
        let halves = |list: Vec<_>| list.into_iter().map(half).collect();
        let thresholds = self.thresholds.unwrap_or_default().into_iter();
        let scores = self.gate.map(|gate| Scores {
            gate: halves(gate),
            need: halves(self.need.unwrap_or_default()),
            thresholds: thresholds.map(|value| value.unwrap_or(f32::INFINITY)).collect(),
        });
        LayerRouting { block: self.block, masks: self.masks, scores }
    }
}

/// A safetensors file with the metadata of its header.
struct File<'a> {
    tensors: SafeTensors<'a>,
    entries: std::collections::HashMap<String, String>,
}

impl<'a> File<'a> {
    fn has(&self, name: &str) -> bool {
        self.tensors.tensor(name).is_ok()
    }

    fn tensor(&self, name: &str) -> Result<safetensors::tensor::TensorView<'a>, TraceError> {
        let missing = |_| TraceError::Unreadable(format!("the tensor {name:?} is missing"));
        self.tensors.tensor(name).map_err(missing)
    }

    fn shape(&self, name: &str) -> Result<Vec<usize>, TraceError> {
        Ok(self.tensor(name)?.shape().to_vec())
    }

    /// The bytes of a tensor of this type and shape.
    fn bytes(&self, name: &str, dtype: Dtype, shape: &[usize]) -> Result<&'a [u8], TraceError> {
        let view = self.tensor(name)?;
        if view.dtype() != dtype || view.shape() != shape {
            return damaged(format!(
                "{name} is {:?} with shape {:?}, expected {dtype:?} with shape {shape:?}",
                view.dtype(),
                view.shape()
            ));
        }
        Ok(view.data())
    }

    fn words(&self, name: &str, shape: &[usize]) -> Result<Vec<u32>, TraceError> {
        let bytes = self.bytes(name, Dtype::U32, shape)?;
        Ok(bytes.as_chunks().0.iter().map(|&b| u32::from_le_bytes(b)).collect())
    }

    /// The masks: a bit for each expert, in the narrowest words that have as many.
    fn masks(&self, experts: usize, shape: &[usize]) -> Result<Vec<u64>, TraceError> {
        if experts <= 32 {
            return Ok(self.words("masks", shape)?.into_iter().map(u64::from).collect());
        }
        let bytes = self.bytes("masks", Dtype::U64, shape)?;
        Ok(bytes.as_chunks().0.iter().map(|&b| u64::from_le_bytes(b)).collect())
    }

    fn floats(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, TraceError> {
        let bytes = self.bytes(name, Dtype::F32, shape)?;
        Ok(bytes.as_chunks().0.iter().map(|&b| f32::from_le_bytes(b)).collect())
    }

    fn halves(&self, name: &str, shape: &[usize]) -> Result<Vec<f16>, TraceError> {
        let bytes = self.bytes(name, Dtype::F16, shape)?;
        Ok(bytes.as_chunks().0.iter().map(|&b| f16::from_le_bytes(b)).collect())
    }

    fn text(&self, key: &str) -> Result<&str, TraceError> {
        let missing = || TraceError::Unreadable(format!("its header lacks the entry {key:?}"));
        self.entries.get(key).map(String::as_str).ok_or_else(missing)
    }

    /// An entry of the header that is JSON.
    fn entry<T: DeserializeOwned>(&self, key: &str) -> Result<T, TraceError> {
        let text = self.text(key)?;
        serde_json::from_str(text)
            .map_err(|error| TraceError::Damaged(format!("{key} in its header: {error}")))
    }
}

#[cfg(test)]
#[path = "read_tests.rs"]
mod tests;
