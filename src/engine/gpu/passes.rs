//! Working memory and run settings for forward passes of one kind: over one branch, over both with a token pool for
//! each, or over both in one pool.

use super::activations::Activations;
use super::dit::Network;
use super::labels::Labels;
use super::model::GpuModel;
use super::prompts::{PromptView, Prompts};
use crate::engine::{EngineError, RunConfig, RunPrompts};
use crate::kernels::MUTED;
use crate::model::{LabelRow, Routing, RoutingRule};
use crate::scheduler::Branch;

/// The labels and prompts of one kind of pass.
pub(super) struct Condition {
    /// What each sample gets from the label tables.
    pub(super) labels: Labels,
    /// Which prompt each sample sees, if the model reads text.
    pub(super) view: Option<PromptView>,
}

impl Condition {
    /// For passes over `batch` samples, without prompts.
    fn new(model: &GpuModel, batch: usize) -> Self {
        Self { labels: Labels::new(&model.gpu, model.config.labels.len(), batch), view: None }
    }
}

/// What passes see of labels and prompts.
#[expect(clippy::large_enum_variant, reason = "an engine has at most two, and most are `Separate`")]
enum Conditions {
    /// Passes over one branch each: the conditional, then the unconditional one.
    Separate([Condition; 2]),
    /// Passes over both branches at once: first the samples of the conditional one, then those of the other.
    Joint(Condition),
}

impl Conditions {
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

/// What passes of one kind have in common.
pub(super) struct Passes {
    pub(super) acts: Activations,
    conditions: Conditions,
    /// Token pools of a pass.
    pools: usize,
    /// How experts get their tokens.
    rule: RoutingRule,
}

impl Passes {
    /// Passes over one branch each.
    pub(super) fn separate(model: &GpuModel, acts: Activations) -> Result<Self, EngineError> {
        let both = [(); 2].map(|()| Condition::new(model, acts.batch));
        Self::checked(model, acts, Conditions::Separate(both), 1)
    }

    /// Passes over both branches of the same samples, in one pool or in a pool for each.
    pub(super) fn joint(
        model: &GpuModel,
        acts: Activations,
        pools: usize,
    ) -> Result<Self, EngineError> {
        let both = Condition::new(model, acts.batch);
        Self::checked(model, acts, Conditions::Joint(both), pools)
    }

    fn checked(
        model: &GpuModel,
        acts: Activations,
        conditions: Conditions,
        pools: usize,
    ) -> Result<Self, EngineError> {
        if let Some(error) = model.gpu.failure() {
            return Err(EngineError::TooLarge(format!(
                "a batch of {} does not fit: {error}; reduce the batch",
                acts.samples
            )));
        }
        Ok(Self { acts, conditions, pools, rule: RoutingRule::default() })
    }

    /// What recording needs.
    pub(super) fn network<'a>(&'a self, model: &'a GpuModel) -> Network<'a> {
        Network {
            gpu: &model.gpu,
            config: &model.config,
            weights: &model.weights,
            acts: &self.acts,
            rule: self.rule,
            pools: self.pools,
            fuses: true,
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
            condition.view = text.map(|w| PromptView::new(gpu, w, prompts, self.acts.batch));
        }
    }

    /// Applies the settings of a run. True if recorded steps no longer fit.
    pub(super) fn prepare(
        &mut self,
        model: &GpuModel,
        run: &RunConfig,
        text: Option<(&Prompts, &RunPrompts)>,
    ) -> bool {
        self.write_thresholds(model, run);
        self.write_labels(model, run);
        if let Some((prompts, run)) = text {
            self.write_prompts(model, prompts, run);
        }
        let is_new = run.routing.rule != self.rule;
        self.rule = run.routing.rule;
        is_new
    }

    fn write_prompts(&self, model: &GpuModel, prompts: &Prompts, run: &RunPrompts) {
        let prepare = |condition: &Condition, of_samples: &[usize]| {
            if let Some(view) = &condition.view {
                view.prepare(&model.gpu, prompts, run, of_samples);
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
            let mut values = if let Some(checkpoint) = model.weights.thresholds(block) {
                run.thresholds(block, checkpoint)
            } else {
                // Without thresholds, only muting is read from them.
                let muted = run.muted.mask(block);
                Routing::default().thresholds(&vec![0.0; model.config.num_experts], muted)
            };
            values.iter_mut().filter(|value| value.is_infinite()).for_each(|value| *value = MUTED);
            moe.thresholds[layer].write(&model.gpu, &values);
        }
    }

    fn write_labels(&self, model: &GpuModel, run: &RunConfig) {
        let GpuModel { gpu, config, weights, .. } = model;
        let labels = run.label_rows(config, self.acts.samples);
        // For each table what the conditional and the unconditional branch get.
        let mut tables = Vec::new();
        let first_rows = &weights.tree.label_tables.first_rows;
        for ((labels, table), &first) in labels.iter().zip(&config.labels).zip(first_rows) {
            let asked =
                labels.iter().map(|l| LabelRow { rows: l.rows.map(|row| first + row), ..*l });
            let null = vec![LabelRow::from(first + table.null); labels.len()];
            tables.push([asked.collect(), null]);
        }
        match &self.conditions {
            Conditions::Separate(both) => {
                for (i, condition) in both.iter().enumerate() {
                    let of_branch = tables.iter().flat_map(|table: &[Vec<_>; 2]| table[i].iter());
                    condition.labels.write(gpu, &of_branch.copied().collect::<Vec<_>>());
                }
            }
            Conditions::Joint(joint) => joint.labels.write(gpu, &tables.concat().concat()),
        }
    }
}
