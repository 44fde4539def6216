//! One forward pass on the CPU with what every block computed, for parity checks.

use super::dit::{final_unit, moe_block, units};
use super::engine::CpuEngine;
use super::prompts::Encoded;
use crate::engine::contract::of_patches;
use crate::engine::{Engine, EngineError, Inspect, RunConfig, Taps};
use crate::model::Config;
use crate::scheduler::{Branch, Latent};

impl Inspect for CpuEngine {
    fn forward_with_taps(&mut self, run: &RunConfig, times: &[f32]) -> Result<Taps, EngineError> {
        assert_eq!(times.len(), self.activations.batch, "times");
        self.start(run)?;
        let mut taps = Taps::new();
        self.tap_text(&mut taps);
        let output = Latent::Output(0);
        for unit in 0..units(&self.model.config) {
            self.forward_unit(unit, Latent::Sample, output, times, Branch::Conditional);
            self.tap(unit, &mut taps);
        }
        self.layers.clear();
        Ok(taps)
    }
}

impl CpuEngine {
    /// What the prompts became, sample by sample as the conditional passes see them.
    fn tap_text(&self, taps: &mut Taps) {
        let (Some(prompts), Some(text)) = (&self.prompts, &self.model.config.text) else { return };
        let (batch, length) = (self.activations.batch, text.max_length);
        for (branch, name) in ["tokens", "negative_tokens"].into_iter().enumerate() {
            taps.push((name.into(), vec![batch, length], prompts.run.ids(branch)));
        }
        let seen = |part: &dyn Fn(&Encoded) -> &[f32]| -> Vec<f32> {
            let asked = prompts.view(Some(Branch::Conditional)).of_samples.iter();
            asked.flat_map(|&prompt| part(&prompts.encoded[prompt])).copied().collect()
        };
        let shape = |columns: usize| vec![batch, length, columns];
        taps.push(("text.out".into(), shape(text.hidden_size), seen(&|p| &p.states)));
        let pooled = vec![batch, self.model.config.hidden_size];
        taps.push(("text.pooled".into(), pooled, seen(&|p| &p.pooled)));
        for block in 0..self.model.config.depth {
            let columns = 2 * self.model.config.num_heads * self.model.config.head_dim;
            let name = format!("blocks.{block}.kv");
            taps.push((name, shape(columns), seen(&|p| &p.memory[block])));
        }
    }

    /// The taps that follow from the activations after a unit.
    fn tap(&self, unit: usize, taps: &mut Taps) {
        let Config { hidden_size: d, num_experts: e, depth, .. } = self.model.config;
        let a = &self.activations;
        let s = a.masks.len();
        if let Some(block) = moe_block(&self.model.config, unit) {
            let bit = |mask: u64, e: usize| (mask >> e & 1) as f32;
            let mut add = |name: &str, shape: &[usize], values: Vec<f32>| {
                taps.push((format!("blocks.{block}.{name}"), shape.to_vec(), values));
            };
            add("moe_in", &[s, d], a.h.clone());
            if !a.need.is_empty() {
                add("capacity", &[s, e], a.need.clone());
            }
            add("gate", &[s, e], a.gate.clone());
            let count = |e| a.masks.iter().map(|&mask| bit(mask, e)).sum();
            add("k", &[e], (0..e).map(count).collect());
            let selected = a.masks.iter().flat_map(|&mask| (0..e).map(move |e| bit(mask, e)));
            add("selected", &[s, e], selected.collect());
        }
        if (1..=2 * depth).contains(&unit) && unit.is_multiple_of(2) {
            let config = &self.model.config;
            let shape = vec![a.batch, config.tokens(), d];
            let x = of_patches(config, d, a.x.clone());
            taps.push((format!("blocks.{}.out", unit / 2 - 1), shape, x));
        }
        let is_last = unit + 1 == units(&self.model.config);
        if is_last || unit == final_unit(&self.model.config) {
            let Config { out_channels, input_size: [height, width], .. } = self.model.config;
            let shape = vec![a.batch, out_channels, height, width];
            let name = if is_last { "out" } else { "detail_head.x" };
            taps.push((name.into(), shape, self.latents.outputs[0].clone()));
        }
    }
}
