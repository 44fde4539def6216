//! The MoE half of a block, as a list of kernels: route, run the experts, combine (paper §3.2–3.3).
//!
//! Nothing is read back: the number of tokens per expert is known only on the GPU.

use super::dit::{Network, Records};
use super::weights::OnGpu;
use crate::engine::{Scope, Stage};
use crate::gpu::Tape;
use crate::kernels::{
    Experts, Linear, Logits, Masks, NextNorm, Predictor, RouteScore, RouteSelect, Routes, Selection,
};
use crate::model::{Kind, Moe, RoutingRule};

impl Network<'_> {
    /// `stream += gate ⊙ (Σ_e G[s,e]·FFN_e(normal[s]) + shared(normal[s]))` over the experts that took token s, with
    /// `normal` and the first layer of the capacity predictor computed already.
    ///
    /// # Panics
    /// When the model has no experts: a bug.
    pub(super) fn moe(
        &self,
        t: &mut Tape<Scope>,
        block: usize,
        w: &Moe<OnGpu>,
        gate: usize,
        records: Option<Records>,
    ) {
        let Self { gpu, config, acts: a, .. } = *self;
        let m = self.moe_memory();
        let layer = config.moe_blocks().iter().position(|&i| i == block).expect("an MoE block");

        let scope = Scope::of_block(block, Stage::Router);
        let [gate_weight, _] = w.gate_weight.whole();
        let score = RouteScore {
            x: &a.normal,
            gate_weight,
            predictor: w.capacity_predictor.as_ref().map(|[_, second]| {
                let [weight, bias] = second.whole();
                Predictor { hidden: &m.predictor, weight, bias }
            }),
            gates: &m.gates,
            capacities: &m.capacities,
            logits: records.map_or(Logits { to: &m.nothing, first: 0 }, |records| Logits {
                to: records.scores,
                first: config.num_experts * records.first,
            }),
        };
        t.push(gpu, scope, &score);
        let select = RouteSelect {
            gates: &m.gates,
            capacities: &m.capacities,
            thresholds: &m.thresholds[layer],
            selection: self.selection(),
            counts: &m.counts,
            slots: &m.slots,
            chosen: &m.chosen,
        };
        t.push(gpu, scope, &select);
        let scope = Scope::of_block(block, Stage::Experts);
        // The shared expert is a residual branch of its own with the same gate.
        if let Some(shared) = &w.shared_experts {
            let (first, up, down) = shared.layers();
            Linear::new(&a.normal, first, &m.shared).gelu_or_swiglu(up).record(gpu, t, scope);
            let gate = self.gated(gate);
            Linear::new(&m.shared, down, &a.stream).ending(gate).record(gpu, t, scope);
        }
        let (first, second, down) = w.experts.layers();
        Experts {
            x: &a.normal,
            routes: Routes {
                gates: &m.gates,
                counts: &m.counts,
                slots: &m.slots,
                chosen: &m.chosen,
            },
            first,
            second,
            down,
            hidden: &m.hidden,
            output: &m.output,
            modulation: &a.modulation,
            gate_column: gate,
            masks: Masks {
                to: records.map_or(&m.masks, |records| records.trace),
                first: records.map_or(0, |records| records.first),
            },
            stream: &a.stream,
            norm: self.norm_after(block).map(|[shift, scale]| NextNorm { shift, scale }),
            normal: &a.normal,
        }
        .record(gpu, t, scope);
    }

    /// The selection rule of a layer. The baselines route at inference as in training.
    fn selection(&self) -> Selection {
        let config = self.config;
        match (config.kind, self.rule) {
            (Kind::Tc, _) => Selection::Choice { k: config.experts_of_token() },
            (Kind::Ec, _) => {
                Selection::Sample { sample: config.tokens(), k: config.tokens_of_expert() }
            }
            (_, RoutingRule::Pool) => {
                Selection::Pool { pool: self.acts.batch * config.tokens() / self.pools }
            }
            (_, RoutingRule::Token) => Selection::Token,
        }
    }
}
