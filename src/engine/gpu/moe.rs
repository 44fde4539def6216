//! The MoE half of a block, as a list of kernels: route, run the experts, combine (paper §3.2–3.3).
//!
//! Nothing is read back: the number of tokens per expert is known only on the GPU.

use super::dit::{Network, Records};
use super::labels::Labels;
use super::weights::OnGpu;
use crate::engine::{Scope, Stage};
use crate::gpu::Tape;
use crate::kernels::{
    Assignments, Choice, Experts, Linear, Masks, Matrix, NextNorm, Predictor, RecordedScores,
    RoutePrototypes, RouteScore, RouteSelect,
};
use crate::model::{Gate, Kind, Moe, Router, Selection};

impl Network<'_> {
    /// `x += gate_mlp ⊙ (Σ_e gate[s,e]·FFN_e(h[s]) + shared(h[s]))` over the experts that took token s, with `h`
    /// and the first layer of the capacity predictor computed already.
    ///
    /// # Panics
    /// When the model has no experts: a bug.
    pub(super) fn moe(
        &self,
        t: &mut Tape<Scope>,
        block: usize,
        w: &Moe<OnGpu>,
        gate_column: usize,
        labels: &Labels,
        records: Option<Records>,
    ) {
        let Self { gpu, config, acts: a, .. } = *self;
        let m = self.moe_memory();
        let layer = config.moe_blocks().iter().position(|&i| i == block).expect("an MoE block");

        let scope = Scope::of_block(block, Stage::Router);
        let scores = records.map_or(RecordedScores { to: &m.nothing, first: 0 }, |records| {
            RecordedScores { to: records.scores, first: config.num_experts * records.first }
        });
        match &w.gate {
            Gate::Linear(weight) => t.push(gpu, scope, &self.score(w, weight, scores)),
            Gate::Prototypes(prototypes) => {
                let call = RoutePrototypes {
                    x: &a.h,
                    prototypes,
                    rows: &labels.rows,
                    shares: &labels.shares,
                    unconditional_row: config.unconditional_row(),
                    tokens_choose: config.kind == Kind::Tc,
                    gate: &m.gate,
                    scores,
                };
                t.push(gpu, scope, &call);
            }
        }
        let select = RouteSelect {
            gate: &m.gate,
            need: &m.need,
            thresholds: &m.thresholds[layer],
            selection: Selection::of(
                config,
                self.rule,
                a.batch * config.stream_tokens() / self.pools,
            ),
            counts: &m.counts,
            positions: &m.positions,
            chosen: &m.chosen,
        };
        t.push(gpu, scope, &select);
        let scope = Scope::of_block(block, Stage::Experts);
        // The shared expert is a residual branch of its own with the same gate.
        if let Some(shared) = &w.shared_experts {
            let (first, up, down) = shared.layers();
            Linear::new(&a.h, first, &m.shared_hidden).gelu_or_swiglu(up).record(gpu, t, scope);
            let gate = self.gated(gate_column);
            Linear::new(&m.shared_hidden, down, &a.x).ending(gate).record(gpu, t, scope);
        }
        let (first, second, down) = w.experts.layers();
        Experts {
            h: &a.h,
            assignments: Assignments {
                gate: &m.gate,
                counts: &m.counts,
                positions: &m.positions,
                chosen: &m.chosen,
            },
            first,
            second,
            down,
            hidden: &m.expert_hidden,
            output: &m.expert_output,
            modulation: &a.modulation,
            gate_column,
            masks: Masks {
                to: records.map_or(&m.masks, |records| records.trace),
                first: records.map_or(0, |records| records.first),
            },
            x: &a.x,
            norm: self.norm_after(block).map(|[shift, scale]| NextNorm {
                shift,
                scale,
                form: config.norm,
            }),
            next: &a.h,
        }
        .record(gpu, t, scope);
    }

    /// The kernel that scores the experts for every token.
    fn score<'a>(
        &'a self,
        w: &'a Moe<OnGpu>,
        weight: &'a Matrix,
        scores: RecordedScores<'a>,
    ) -> RouteScore<'a> {
        let m = self.moe_memory();
        let [gate_weight, _] = weight.whole();
        RouteScore {
            x: &self.acts.h,
            gate_weight,
            predictor: w.capacity_predictor.as_ref().map(|[_, second]| {
                let [weight, bias] = second.whole();
                Predictor { hidden: &m.predictor_hidden, weight, bias }
            }),
            choice: match (self.config.router, &w.selection_bias) {
                (Router::Sigmoid { scale }, Some(bias)) => {
                    Some(Choice { bias, experts: self.config.experts_of_token(), scale })
                }
                _ => None,
            },
            gate: &m.gate,
            need: &m.need,
            scores,
        }
    }
}
