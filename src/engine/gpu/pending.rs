//! The results of a step (sample, routing, reports, timestamps) and their conversion into a snapshot.

use super::model::GpuModel;
use crate::engine::contract::of_patches;
use crate::engine::{ForwardRouting, LayerRouting, RunConfig, Scores, Snapshot, Stage, StageTimes};
use crate::gpu::{Clock, GpuError, Readback};
use crate::kernels::combine_experts::{joined_masks, mask_words};
use crate::kernels::route_score::unpack;
use crate::scheduler::Branch;

/// The branches of one forward pass with their times: one, or two where both are computed at once.
pub(super) type PassBranches = Vec<(f32, Branch)>;

/// A pending snapshot.
pub(super) struct Pending {
    pub(super) readback: Readback,
    pub(super) steps: u32,
    pub(super) passes: Vec<PassBranches>,
    /// Number of reports that came along.
    pub(super) reports: usize,
    /// The stages whose timestamps follow the reports.
    pub(super) timed: Vec<Stage>,
}

/// What a snapshot is read with.
pub(super) struct Reader<'a> {
    pub(super) model: &'a GpuModel,
    pub(super) run: &'a RunConfig,
    pub(super) samples: usize,
    pub(super) clock: Option<&'a Clock>,
}

impl Reader<'_> {
    /// Converts the results into a snapshot.
    pub(super) fn read(&self, pending: Pending) -> Result<Snapshot, GpuError> {
        let Pending { readback, steps, passes, reports, timed } = pending;
        let parts = readback.take()?;
        let latent = bytemuck::pod_collect_to_vec(&parts[0]);
        let trace: Vec<u32> = bytemuck::pod_collect_to_vec(&parts[1]);
        let words: Vec<u32> = bytemuck::pod_collect_to_vec(&parts[2]);
        let (reported, stamps) = parts[3..].split_at(reports);
        let reports = reported.iter().map(|part| bytemuck::pod_collect_to_vec(part)).collect();
        let config = &self.model.config;
        let blocks = config.moe_blocks();
        let pool = self.samples * config.stream_tokens();
        let words_of_token = mask_words(config.num_experts);
        let mut routing = Vec::new();
        let (mut masks, mut words) = (&trace[..], &words[..]);
        for branches in passes {
            let first = routing.len();
            let new = |&(time, branch)| ForwardRouting {
                step: steps - 1,
                time,
                branch,
                scale: 1,
                layers: Vec::new(),
            };
            routing.extend(branches.iter().map(new));
            // In a layer of a pass over both branches, the tokens of one follow those of the other.
            for &block in &blocks {
                for pass in &mut routing[first..] {
                    let (of_pass, rest) = masks.split_at(pool * words_of_token);
                    masks = rest;
                    let scores = self.scores(block, &mut words);
                    pass.layers.push(LayerRouting {
                        block,
                        masks: of_patches(config, 1, joined_masks(of_pass, words_of_token)),
                        scores,
                    });
                }
            }
        }
        let mut times = StageTimes::default();
        if let (Some(clock), [stamps]) = (self.clock, stamps) {
            let ms = clock.milliseconds(&bytemuck::pod_collect_to_vec(stamps));
            timed.iter().zip(ms).for_each(|(&stage, ms)| times.add(stage, ms));
        }
        Ok(Snapshot { steps, latent, routing, stage_ms: times.list(), reports })
    }

    /// Takes the scores of a layer of one branch from the front of the results; `None` if there are none.
    fn scores(&self, block: usize, words: &mut &[u32]) -> Option<Scores> {
        let GpuModel { config, weights, .. } = self.model;
        let of_layer =
            words.split_off(..self.samples * config.stream_tokens() * config.num_experts)?;
        let half = |which: usize| {
            let all = of_layer.iter().map(move |&word| unpack(word)[which]).collect();
            of_patches(config, config.num_experts, all)
        };
        let gate = half(0);
        Some(match weights.thresholds(block) {
            None => Scores { gate, need: Vec::new(), thresholds: Vec::new() },
            Some(checkpoint) => {
                let thresholds = self.run.thresholds(block, checkpoint);
                Scores { gate, need: half(1), thresholds }
            }
        })
    }
}
