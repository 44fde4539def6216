//! The routing trace: which expert took which token, at every step and MoE layer.
//!
//! The engine hands over one bit per (token, expert); everything else — counts, capacity, maps — is derived
//! here. The file formats are described in `docs/trace-format.md`.

mod views;

use std::collections::HashMap;
use std::path::Path;

use serde::Serialize;

pub use views::At;

use crate::checkpoint::{TensorOut, write_safetensors};
use crate::engine::{ForwardRouting, LayerRouting};
use crate::model::Config;
use crate::scheduler::Branch;

/// Version of the exported formats.
const FORMAT: u32 = 1;

/// The routing of a whole run.
#[derive(Clone, Debug)]
pub struct Trace {
    model: String,
    experts: usize,
    grid: [usize; 2],
    labels: Vec<Vec<String>>,
    forwards: Vec<ForwardRouting>,
}

impl Trace {
    /// An empty trace for a run; `labels` names each picture, one list per label table; prompts are the last list.
    pub fn new(config: &Config, labels: Vec<Vec<String>>) -> Self {
        Self {
            model: config.name.clone(),
            experts: config.num_experts,
            grid: config.grid(),
            labels,
            forwards: Vec::new(),
        }
    }

    /// Forgets the routing of all steps.
    pub fn clear(&mut self) {
        self.forwards.clear();
    }

    /// Appends what a snapshot brought.
    pub fn extend(&mut self, routing: Vec<ForwardRouting>) {
        self.forwards.extend(routing);
    }

    /// Adds the pictures of another batch of the same run: its tokens follow ours in every pass.
    ///
    /// # Panics
    /// When the other batch went through other passes or layers.
    pub fn append_batch(&mut self, other: Self) {
        assert_eq!(self.forwards.len(), other.forwards.len(), "batches of one run");
        for (ours, theirs) in self.forwards.iter_mut().zip(other.forwards) {
            assert_eq!(ours.layers.len(), theirs.layers.len(), "batches of one model");
            for (ours, theirs) in ours.layers.iter_mut().zip(theirs.layers) {
                ours.masks.extend(theirs.masks);
            }
        }
        for (ours, theirs) in self.labels.iter_mut().zip(other.labels) {
            ours.extend(theirs);
        }
    }

    /// Every forward pass in the order of computation.
    pub fn forwards(&self) -> &[ForwardRouting] {
        &self.forwards
    }

    /// `E`.
    pub fn experts(&self) -> usize {
        self.experts
    }

    /// `T`, the tokens of one picture.
    pub fn tokens(&self) -> usize {
        self.grid.iter().product()
    }

    /// Rows and columns of tokens in one picture.
    pub fn grid(&self) -> [usize; 2] {
        self.grid
    }

    /// `C` of every step: mean over its passes and MoE layers of (tokens taken by all experts) / (tokens in
    /// the pool), paper eq. 8–9. Empty for a model without experts.
    pub fn capacity_by_step(&self) -> Vec<f32> {
        let mut sums: Vec<(f32, u32)> = Vec::new();
        for forward in self.forwards.iter().filter(|f| !f.layers.is_empty()) {
            let step = forward.step as usize;
            sums.resize(sums.len().max(step + 1), (0.0, 0));
            let mean = forward.layers.iter().map(LayerRouting::capacity).sum::<f32>()
                / forward.layers.len() as f32;
            sums[step].0 += mean;
            sums[step].1 += 1;
        }
        sums.into_iter().map(|(sum, n)| sum / n.max(1) as f32).collect()
    }

    /// Mean of [`Trace::capacity_by_step`], the paper's `C_avg`; `None` without experts.
    pub fn capacity(&self) -> Option<f32> {
        let steps = self.capacity_by_step();
        (!steps.is_empty()).then(|| steps.iter().sum::<f32>() / steps.len() as f32)
    }

    /// `C` of each picture over its conditional passes: how much compute its content asked for.
    pub fn capacity_by_picture(&self) -> Vec<f32> {
        let pictures = self.forwards.iter().flat_map(|f| &f.layers).next();
        let pictures = pictures.map_or(0, |l| l.masks.len() / self.tokens());
        let mut sums = vec![0_u64; pictures];
        let mut layers = 0_u64;
        for layer in
            self.forwards.iter().filter(|f| f.branch == Branch::Conditional).flat_map(|f| &f.layers)
        {
            layers += 1;
            for (sum, masks) in sums.iter_mut().zip(layer.masks.chunks(self.tokens())) {
                *sum += masks.iter().map(|m| u64::from(m.count_ones())).sum::<u64>();
            }
        }
        let tokens = (layers * self.tokens() as u64).max(1);
        sums.into_iter().map(|sum| sum as f32 / tokens as f32).collect()
    }

    /// Writes the trace: counts as JSON, or with every token as safetensors, by the file's extension.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn save(&self, path: &Path) -> std::io::Result<()> {
        if path.extension().is_some_and(|e| e.eq_ignore_ascii_case("safetensors")) {
            self.save_safetensors(path)
        } else {
            std::fs::write(path, self.to_json()?)
        }
    }

    /// The JSON form.
    ///
    /// # Errors
    /// Never in practice: the document holds only numbers and strings.
    pub fn to_json(&self) -> std::io::Result<String> {
        let forwards = self.forwards.iter().map(|forward| ForwardDocument {
            step: forward.step,
            time: forward.time,
            guided: forward.branch == Branch::Conditional,
            layers: forward
                .layers
                .iter()
                .map(|layer| LayerDocument {
                    block: layer.block,
                    capacity: layer.capacity(),
                    counts: layer.counts(self.experts),
                    masks: &layer.masks,
                })
                .collect(),
        });
        let document = Document {
            format: FORMAT,
            model: &self.model,
            experts: self.experts,
            tokens_per_picture: self.tokens(),
            grid: self.grid,
            labels: &self.labels,
            capacity: self.capacity(),
            capacity_by_step: self.capacity_by_step(),
            capacity_by_picture: self.capacity_by_picture(),
            forwards: forwards.collect(),
        };
        Ok(serde_json::to_string(&document)?)
    }

    fn save_safetensors(&self, path: &Path) -> std::io::Result<()> {
        let blocks: Vec<u32> = self
            .forwards
            .first()
            .map(|f| f.layers.iter().map(|l| l.block as u32).collect())
            .unwrap_or_default();
        let pool = self
            .forwards
            .first()
            .and_then(|f| f.layers.first())
            .map_or(0, |layer| layer.masks.len());
        let layers = || self.forwards.iter().flat_map(|f| &f.layers);
        let masks: Vec<u32> = layers().flat_map(|l| l.masks.iter().copied()).collect();
        let counts: Vec<u32> = layers().flat_map(|l| l.counts(self.experts)).collect();
        let column = |value: fn(&ForwardRouting) -> u32| -> Vec<u32> {
            self.forwards.iter().map(value).collect()
        };
        let times: Vec<f32> = self.forwards.iter().map(|f| f.time).collect();
        let n = self.forwards.len();
        let tensors = [
            TensorOut::u32("masks", &[n, blocks.len(), pool], &masks),
            TensorOut::u32("counts", &[n, blocks.len(), self.experts], &counts),
            TensorOut::u32("blocks", &[blocks.len()], &blocks),
            TensorOut::u32("step", &[n], &column(|f| f.step)),
            TensorOut::u32("guided", &[n], &column(|f| u32::from(f.branch == Branch::Conditional))),
            TensorOut::f32("time", &[n], &times),
        ];
        let metadata = HashMap::from([
            ("format".to_owned(), FORMAT.to_string()),
            ("model".to_owned(), self.model.clone()),
            ("grid".to_owned(), serde_json::to_string(&self.grid)?),
            ("labels".to_owned(), serde_json::to_string(&self.labels)?),
        ]);
        write_safetensors(path, &tensors, metadata)
    }
}

impl LayerRouting {
    /// `n_e`, the tokens that each expert took, `[E]`.
    pub fn counts(&self, experts: usize) -> Vec<u32> {
        (0..experts).map(|e| self.masks.iter().map(|m| m >> e & 1).sum()).collect()
    }

    /// `C` of the layer: tokens taken by all experts over tokens in the pool.
    pub fn capacity(&self) -> f32 {
        let taken: u64 = self.masks.iter().map(|m| u64::from(m.count_ones())).sum();
        taken as f32 / self.masks.len().max(1) as f32
    }
}

#[derive(Serialize)]
struct Document<'a> {
    format: u32,
    model: &'a str,
    experts: usize,
    tokens_per_picture: usize,
    grid: [usize; 2],
    labels: &'a [Vec<String>],
    capacity: Option<f32>,
    capacity_by_step: Vec<f32>,
    capacity_by_picture: Vec<f32>,
    forwards: Vec<ForwardDocument<'a>>,
}

#[derive(Serialize)]
struct ForwardDocument<'a> {
    step: u32,
    time: f32,
    guided: bool,
    layers: Vec<LayerDocument<'a>>,
}

#[derive(Serialize)]
struct LayerDocument<'a> {
    block: usize,
    capacity: f32,
    counts: Vec<u32>,
    masks: &'a [u32],
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two pictures of two tokens, three experts, two layers, two steps; the second without guidance.
    pub(super) fn trace() -> Trace {
        let forward = |step, branch, masks: [u32; 4], others: [u32; 4]| ForwardRouting {
            step,
            time: 0.5,
            branch,
            layers: vec![
                LayerRouting { block: 1, masks: masks.to_vec() },
                LayerRouting { block: 3, masks: others.to_vec() },
            ],
        };
        Trace {
            model: "test".into(),
            experts: 3,
            grid: [1, 2],
            labels: vec![vec!["a".into(), "b".into()]],
            forwards: vec![
                forward(0, Branch::Conditional, [0b111, 0b001, 0, 0], [0b001, 0, 0b110, 0b001]),
                forward(0, Branch::Unconditional, [0, 0, 0, 0], [0; 4]),
                forward(1, Branch::Conditional, [0b010, 0b010, 0b100, 0b011], [0b1; 4]),
            ],
        }
    }

    #[test]
    fn counts_and_capacity_follow_the_masks() {
        let trace = trace();
        assert_eq!(trace.forwards[0].layers[0].counts(3), [2, 1, 1]);
        assert_eq!(trace.capacity_by_step(), [0.5, 1.125]);
        assert_eq!(trace.capacity(), Some(0.8125));
        // Picture 0 took 4 + 1 + 2 + 2 of 8 token visits, picture 1 took 0 + 3 + 3 + 2.
        assert_eq!(trace.capacity_by_picture(), [1.125, 1.0]);
    }

    #[test]
    fn both_exports_hold_the_same_numbers() {
        let folder = tempfile::tempdir().unwrap();
        let (json, tensors) = (folder.path().join("t.json"), folder.path().join("t.safetensors"));
        trace().save(&json).unwrap();
        trace().save(&tensors).unwrap();
        let json: serde_json::Value =
            serde_json::from_slice(&std::fs::read(json).unwrap()).unwrap();
        assert_eq!(json["forwards"][2]["layers"][0]["counts"], serde_json::json!([1, 3, 1]));
        let bytes = std::fs::read(tensors).unwrap();
        let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let counts = file.tensor("counts").unwrap();
        assert_eq!(counts.shape(), [3, 2, 3]);
        let last_pass = [1, 0, 0, 0, 3, 0, 0, 0, 1, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(counts.data()[4 * 12..], last_pass);
    }
}
