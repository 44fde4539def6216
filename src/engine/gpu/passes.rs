//! Working memory, recorded blocks and run settings for forward passes of one pool size: an engine has one
//! of these for its batch, and a second one where guidance needs both branches in one pool.

use super::activations::Activations;
use super::dit::Network;
use super::model::GpuModel;
use super::prompts::{Prompts, Reading};
use crate::engine::{EngineError, RunConfig, RunPrompts, Scope};
use crate::gpu::{Tape, Tensor};
use crate::kernels::MUTED;
use crate::model::{Routing, RoutingRule};
use crate::scheduler::Branch;

/// The labels and prompts of one kind of pass.
pub(super) struct Condition {
    /// Label rows `[tables, samples]`.
    pub(super) rows: Tensor,
    /// Which prompt each sample sees, if the model reads text.
    pub(super) reading: Option<Reading>,
    /// The blocks of a forward pass.
    pub(super) blocks: Vec<Tape<Scope>>,
}

impl Condition {
    /// For passes over `batch` samples, without prompts and blocks.
    fn new(model: &GpuModel, batch: usize) -> Self {
        let shape = [model.config.labels.len(), batch];
        let rows = Tensor::empty(&model.gpu, "label rows", &shape);
        Self { rows, reading: None, blocks: Vec::new() }
    }
}

/// What passes see of labels and prompts.
#[expect(clippy::large_enum_variant, reason = "an engine has at most two, and most are `Separate`")]
enum Conditions {
    /// Passes over one branch each: the conditional, then the unconditional one.
    Separate([Condition; 2]),
    /// Passes over both branches, one after the other in the same pool.
    Joint(Condition),
}

impl Conditions {
    fn all(&self) -> &[Condition] {
        match self {
            Self::Separate(both) => both,
            Self::Joint(joint) => std::slice::from_ref(joint),
        }
    }

    fn all_mut(&mut self) -> &mut [Condition] {
        match self {
            Self::Separate(both) => both,
            Self::Joint(joint) => std::slice::from_mut(joint),
        }
    }

    /// What a pass over a branch sees; or over both.
    fn of(&self, branch: Branch) -> &Condition {
        match (self, branch) {
            (Self::Separate([conditional, _]), Branch::Conditional) => conditional,
            (Self::Separate([_, unconditional]), Branch::Unconditional) => unconditional,
            (Self::Joint(joint), _) => joint,
        }
    }
}

/// What passes over one number of samples have in common.
pub(super) struct Passes {
    pub(super) acts: Activations,
    conditions: Conditions,
    /// How experts get their tokens in the recorded blocks.
    rule: RoutingRule,
    /// Whether the recorded blocks keep the router's logits.
    records: bool,
}

impl Passes {
    /// Memory for passes over `batch` samples.
    pub(super) fn new(model: &GpuModel, batch: usize) -> Result<Self, EngineError> {
        let acts = Activations::new(&model.gpu, &model.config, batch)?;
        let both = [(); 2].map(|()| Condition::new(model, acts.batch));
        Self::recorded(model, acts, Conditions::Separate(both))
    }

    /// Memory for passes over both branches of the same samples.
    pub(super) fn joint(&self, model: &GpuModel) -> Result<Self, EngineError> {
        let acts = self.acts.joint(&model.gpu, &model.config)?;
        let both = Condition::new(model, acts.batch);
        Self::recorded(model, acts, Conditions::Joint(both))
    }

    fn recorded(
        model: &GpuModel,
        acts: Activations,
        conditions: Conditions,
    ) -> Result<Self, EngineError> {
        if let Some(error) = model.gpu.failure() {
            return Err(EngineError::TooLarge(format!(
                "a batch of {} does not fit: {error}; reduce the batch",
                acts.batch
            )));
        }
        let mut passes = Self { acts, conditions, rule: RoutingRule::default(), records: false };
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
        let blocks = |reading: Option<&Reading>| -> Vec<Tape<Scope>> {
            let text = |i| Some((reading?, &prompts?.memory[i]));
            (0..model.config.depth).map(|i| self.network(model).block(i, text(i))).collect()
        };
        let conditions = self.conditions.all().iter();
        let recorded: Vec<_> = conditions.map(|c| blocks(c.reading.as_ref())).collect();
        for (condition, blocks) in self.conditions.all_mut().iter_mut().zip(recorded) {
            condition.blocks = blocks;
        }
    }

    /// What passes of a branch see; of both in a joint pass.
    pub(super) fn condition(&self, branch: Branch) -> &Condition {
        self.conditions.of(branch)
    }

    /// Makes the passes read from this memory of prompts.
    pub(super) fn read_from(&mut self, model: &GpuModel, prompts: &Prompts) {
        let GpuModel { gpu, weights, .. } = model;
        for condition in self.conditions.all_mut() {
            let text = weights.tree.text_encoder.as_ref();
            condition.reading = text.map(|w| Reading::new(gpu, w, prompts, self.acts.batch));
        }
        self.record(model, Some(prompts));
    }

    /// Applies the settings of a run. True if the blocks had to be recorded again.
    pub(super) fn prepare(
        &mut self,
        model: &GpuModel,
        run: &RunConfig,
        text: Option<(&Prompts, &RunPrompts)>,
    ) -> bool {
        self.write_thresholds(model, run);
        self.write_labels(model, &run.labels);
        if let Some((prompts, run)) = text {
            self.write_prompts(model, prompts, run);
        }
        let is_new = run.routing.rule != self.rule || run.record_scores != self.records;
        if is_new {
            self.rule = run.routing.rule;
            self.records = run.record_scores;
            if let Some(moe) = &mut self.acts.moe {
                moe.record(&model.gpu, self.records);
            }
            self.record(model, text.map(|text| text.0));
        }
        is_new
    }

    fn write_prompts(&self, model: &GpuModel, prompts: &Prompts, run: &RunPrompts) {
        let prepare = |condition: &Condition, of_samples: &[usize]| {
            if let Some(reading) = &condition.reading {
                reading.prepare(&model.gpu, prompts, run, of_samples);
            }
        };
        match &self.conditions {
            Conditions::Separate(both) => {
                for (condition, of_samples) in both.iter().zip(&run.of_samples) {
                    prepare(condition, of_samples);
                }
            }
            Conditions::Joint(joint) => prepare(joint, &run.of_samples.concat()),
        }
    }

    /// Writes the thresholds that a run compares predicted capacities with.
    fn write_thresholds(&self, model: &GpuModel, run: &RunConfig) {
        let Some(moe) = &self.acts.moe else { return };
        for (layer, &block) in model.config.moe_blocks().iter().enumerate() {
            let muted = run.muted.mask(block);
            let mut values = match model.weights.thresholds(block) {
                Some(checkpoint) => run.routing.thresholds(checkpoint, muted),
                // Without thresholds, only muting is read from them.
                None => Routing::default().thresholds(&vec![0.0; model.config.num_experts], muted),
            };
            values.iter_mut().filter(|value| value.is_infinite()).for_each(|value| *value = MUTED);
            moe.thresholds[layer].write(&model.gpu, &values);
        }
    }

    fn write_labels(&self, model: &GpuModel, labels: &[Vec<u32>]) {
        let GpuModel { gpu, config, weights, .. } = model;
        assert_eq!(labels.len(), config.labels.len(), "one list of rows for each label table");
        // For each table the rows of the conditional and of the unconditional branch.
        let mut tables = Vec::new();
        let first_rows = &weights.tree.label_tables.first_rows;
        for ((rows, table), &first) in labels.iter().zip(&config.labels).zip(first_rows) {
            assert_eq!(rows.len(), self.acts.samples, "one row of {} for each sample", table.name);
            assert!(rows.iter().all(|&row| row <= table.null), "{}: {rows:?}", table.name);
            let asked: Vec<u32> = rows.iter().map(|row| first + row).collect();
            let null = vec![first + table.null; rows.len()];
            tables.push([asked, null]);
        }
        match &self.conditions {
            Conditions::Separate(both) => {
                for (i, condition) in both.iter().enumerate() {
                    let of_branch = tables.iter().flat_map(|table| table[i].iter().copied());
                    condition.rows.write(gpu, &of_branch.collect::<Vec<_>>());
                }
            }
            Conditions::Joint(joint) => joint.rows.write(gpu, &tables.concat().concat()),
        }
    }
}
