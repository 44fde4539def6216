//! Working memory, recorded blocks and run settings for forward passes of one pool size: an engine has one
//! of these for its batch, and a second one where guidance needs both branches in one pool.

use super::activations::Activations;
use super::dit::Network;
use super::gpu_engine::GpuModel;
use super::{Branch, EngineError, Routing, RoutingRule};
use crate::gpu::{Tape, Tensor};

/// What passes over one number of samples have in common.
pub(super) struct Passes {
    pub(super) acts: Activations,
    /// The blocks of a forward pass.
    pub(super) blocks: Vec<Tape>,
    /// Label rows `[tables, samples]` of the conditional and of the unconditional branch; a joint pass
    /// has one list with the rows of both.
    label_rows: Vec<Tensor>,
    /// How experts get their tokens in the recorded blocks.
    rule: RoutingRule,
}

impl Passes {
    /// Memory for passes over `batch` samples.
    pub(super) fn new(model: &GpuModel, batch: usize) -> Result<Self, EngineError> {
        let acts = Activations::new(&model.gpu, &model.config, batch)?;
        Self::recorded(model, acts, 2)
    }

    /// Memory for passes over both branches of the same samples.
    pub(super) fn joint(&self, model: &GpuModel) -> Result<Self, EngineError> {
        let acts = self.acts.joint(&model.gpu, &model.config)?;
        Self::recorded(model, acts, 1)
    }

    fn recorded(model: &GpuModel, acts: Activations, lists: usize) -> Result<Self, EngineError> {
        let GpuModel { gpu, config, .. } = model;
        let shape = [config.labels.len(), acts.batch];
        let rows = |_| Tensor::empty(gpu, "label rows", &shape);
        let label_rows = (0..lists).map(rows).collect();
        if let Some(error) = gpu.failure() {
            return Err(EngineError::TooLarge(format!(
                "a batch of {} does not fit: {error}; make the batch smaller",
                acts.batch
            )));
        }
        let mut passes =
            Self { acts, blocks: Vec::new(), label_rows, rule: RoutingRule::default() };
        passes.record(model);
        Ok(passes)
    }

    /// What recording needs.
    pub(super) fn network<'a>(&'a self, model: &'a GpuModel) -> Network<'a> {
        Network {
            gpu: &model.gpu,
            config: &model.config,
            weights: &model.weights,
            acts: &self.acts,
            rule: self.rule,
        }
    }

    fn record(&mut self, model: &GpuModel) {
        self.blocks = (0..model.config.depth).map(|i| self.network(model).block(i)).collect();
    }

    /// Label rows of a branch; of both in a joint pass.
    pub(super) fn rows(&self, branch: Branch) -> &Tensor {
        match branch {
            Branch::Unconditional if self.label_rows.len() == 2 => &self.label_rows[1],
            _ => &self.label_rows[0],
        }
    }

    /// Takes over the settings of a run. True if the blocks had to be recorded anew.
    pub(super) fn prepare(
        &mut self,
        model: &GpuModel,
        routing: Routing,
        labels: &[Vec<u32>],
    ) -> bool {
        self.write_thresholds(model, routing);
        self.write_labels(model, labels);
        let is_new = routing.rule != self.rule;
        if is_new {
            self.rule = routing.rule;
            self.record(model);
        }
        is_new
    }

    /// Writes the thresholds that a run compares predicted capacities with.
    fn write_thresholds(&self, model: &GpuModel, routing: Routing) {
        let Some(moe) = &self.acts.moe else { return };
        for (layer, &block) in model.config.moe_blocks().iter().enumerate() {
            if let Some(thresholds) = model.weights.thresholds(block) {
                let values: Vec<f32> = thresholds.iter().map(|&t| routing.threshold(t)).collect();
                moe.thresholds[layer].write(&model.gpu, &values);
            }
        }
    }

    fn write_labels(&self, model: &GpuModel, labels: &[Vec<u32>]) {
        let GpuModel { gpu, config, weights, .. } = model;
        assert_eq!(labels.len(), config.labels.len(), "one list of rows for each label table");
        let (mut asked, mut null, mut both) = (Vec::new(), Vec::new(), Vec::new());
        for ((rows, table), &first) in labels.iter().zip(&config.labels).zip(&weights.label_rows) {
            assert_eq!(rows.len(), self.acts.samples, "one row of {} for each sample", table.name);
            assert!(rows.iter().all(|&row| row <= table.null), "{}: {rows:?}", table.name);
            let start = asked.len();
            asked.extend(rows.iter().map(|row| first + row));
            null.extend(rows.iter().map(|_| first + table.null));
            both.extend_from_slice(&asked[start..]);
            both.extend_from_slice(&null[start..]);
        }
        match &self.label_rows[..] {
            [conditional, unconditional] => {
                conditional.write(gpu, &asked);
                unconditional.write(gpu, &null);
            }
            lists => lists[0].write(gpu, &both),
        }
    }
}
