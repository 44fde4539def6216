//! Working memory, recorded blocks and run settings for forward passes of one pool size: an engine has one
//! of these for its batch, and a second one where guidance needs both branches in one pool.

use super::activations::Activations;
use super::dit::Network;
use super::model::GpuModel;
use super::prompts::{Prompts, Reading};
use crate::engine::{EngineError, RunConfig, RunPrompts};
use crate::gpu::{Tape, Tensor};
use crate::model::{Routing, RoutingRule};
use crate::scheduler::Branch;

/// The labels and prompts of one kind of pass.
pub(super) struct Condition {
    /// Label rows `[tables, samples]`.
    pub(super) rows: Tensor,
    /// Which prompt each sample sees, where the model reads text.
    pub(super) reading: Option<Reading>,
    /// The blocks of a forward pass.
    pub(super) blocks: Vec<Tape>,
}

/// What passes over one number of samples have in common.
pub(super) struct Passes {
    pub(super) acts: Activations,
    /// What the passes see of labels and prompts: in the conditional and in the unconditional branch; a
    /// joint pass has one list with both.
    conditions: Vec<Condition>,
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
        let condition = |_| Condition {
            rows: Tensor::empty(gpu, "label rows", &shape),
            reading: None,
            blocks: Vec::new(),
        };
        let conditions = (0..lists).map(condition).collect();
        if let Some(error) = gpu.failure() {
            return Err(EngineError::TooLarge(format!(
                "a batch of {} does not fit: {error}; make the batch smaller",
                acts.batch
            )));
        }
        let mut passes = Self { acts, conditions, rule: RoutingRule::default() };
        passes.record(model, None);
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

    /// Records the blocks; branches differ only in the prompts that they see.
    fn record(&mut self, model: &GpuModel, prompts: Option<&Prompts>) {
        let blocks = |reading: Option<&Reading>| -> Vec<Tape> {
            let text = |i| Some((reading?, &prompts?.memory[i]));
            (0..model.config.depth).map(|i| self.network(model).block(i, text(i))).collect()
        };
        let recorded: Vec<_> = self.conditions.iter().map(|c| blocks(c.reading.as_ref())).collect();
        for (condition, blocks) in self.conditions.iter_mut().zip(recorded) {
            condition.blocks = blocks;
        }
    }

    /// What passes of a branch see; of both in a joint pass.
    pub(super) fn condition(&self, branch: Branch) -> &Condition {
        match branch {
            Branch::Unconditional if self.conditions.len() == 2 => &self.conditions[1],
            _ => &self.conditions[0],
        }
    }

    /// Makes the passes read from this memory of prompts.
    pub(super) fn read_from(&mut self, model: &GpuModel, prompts: &Prompts) {
        let GpuModel { gpu, weights, .. } = model;
        for condition in &mut self.conditions {
            let text = weights.tree.text_encoder.as_ref();
            condition.reading = text.map(|w| Reading::new(gpu, w, prompts, self.acts.batch));
        }
        self.record(model, Some(prompts));
    }

    /// Takes over the settings of a run. True if the blocks had to be recorded anew.
    pub(super) fn prepare(
        &mut self,
        model: &GpuModel,
        run: &RunConfig,
        text: Option<(&Prompts, &RunPrompts)>,
    ) -> bool {
        self.write_thresholds(model, run.routing);
        self.write_labels(model, &run.labels);
        if let Some((prompts, run)) = text {
            self.write_prompts(model, prompts, run);
        }
        let is_new = run.routing.rule != self.rule;
        if is_new {
            self.rule = run.routing.rule;
            self.record(model, text.map(|text| text.0));
        }
        is_new
    }

    fn write_prompts(&self, model: &GpuModel, prompts: &Prompts, run: &RunPrompts) {
        let both = run.of_samples.concat();
        let lists: Vec<&[usize]> = match self.conditions.len() {
            1 => vec![&both],
            _ => run.of_samples.iter().map(|list| &list[..]).collect(),
        };
        for (condition, list) in self.conditions.iter().zip(lists) {
            if let Some(reading) = &condition.reading {
                reading.prepare(&model.gpu, prompts, run, list);
            }
        }
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
        let first_rows = &weights.tree.label_tables.first_rows;
        for ((rows, table), &first) in labels.iter().zip(&config.labels).zip(first_rows) {
            assert_eq!(rows.len(), self.acts.samples, "one row of {} for each sample", table.name);
            assert!(rows.iter().all(|&row| row <= table.null), "{}: {rows:?}", table.name);
            let start = asked.len();
            asked.extend(rows.iter().map(|row| first + row));
            null.extend(rows.iter().map(|_| first + table.null));
            both.extend_from_slice(&asked[start..]);
            both.extend_from_slice(&null[start..]);
        }
        match &self.conditions[..] {
            [conditional, unconditional] => {
                conditional.rows.write(gpu, &asked);
                unconditional.rows.write(gpu, &null);
            }
            lists => lists[0].rows.write(gpu, &both),
        }
    }
}
