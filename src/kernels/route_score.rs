//! Gates and capacity probabilities of every token for every expert, in one dispatch.
//! `gates = softmax(x · Wᵍᵀ)`, `capacities = σ(hidden · W₂ᵀ + b₂)` (paper §3.2, §3.3).

use crate::gpu::{Kernel, Profile, Shader, Tensor, spread};

/// Lanes of a workgroup.
const LANES: usize = 256;

/// Lanes that share a pair of a token and an expert.
const PARTS: usize = 8;

/// Pairs in a workgroup.
const PAIRS: usize = LANES / PARTS;

/// The uniform.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
pub struct Params {
    tokens: u32,
    experts: u32,
    quads: u32,
}

/// The last layer of the capacity predictor; its first, with `SiLU`, is an ordinary `linear`.
#[derive(Clone, Copy)]
pub struct Predictor<'a> {
    /// `silu(W₁ x + b₁)`, `[S, D]`.
    pub hidden: &'a Tensor,
    /// `W₂`, f32, `[E, D]`.
    pub weight: &'a Tensor,
    /// `b₂`, `[E]`.
    pub bias: &'a Tensor,
}

/// Arguments.
pub struct RouteScore<'a> {
    /// Modulated tokens, `[S, D]`; D is a multiple of 4.
    pub x: &'a Tensor,
    /// Router, f32, `[E, D]`.
    pub gate_weight: &'a Tensor,
    /// `None` for the baselines, which have none: `capacities` is then left as it is.
    pub predictor: Option<Predictor<'a>>,
    /// Out: softmax over experts, `[S, E]`.
    pub gates: &'a Tensor,
    /// Out: probability that the expert should take the token, `[S, E]`.
    pub capacities: &'a Tensor,
}

impl RouteScore<'_> {
    /// Pairs per token: E rounded up to a power of two, so that a token never spans two workgroups.
    fn expert_lanes(&self) -> usize {
        self.gates.shape[1].next_power_of_two()
    }
}

impl Kernel for RouteScore<'_> {
    const SHADER: Shader = shader!("route_score", consts: [LANES, PARTS]);
    type Params = Params;

    fn params(&self) -> Params {
        let &[tokens, experts] = &*self.gates.shape else { panic!("gates {:?}", self.gates.shape) };
        let d = self.gate_weight.shape[1];
        assert!((1..=32).contains(&experts) && d.is_multiple_of(4), "E {experts}, D {d}");
        assert_eq!(self.x.len(), tokens * d, "x {:?}", self.x.shape);
        assert_eq!(self.gate_weight.shape, [experts, d]);
        assert_eq!(self.capacities.shape, self.gates.shape);
        if let Some(p) = self.predictor {
            assert_eq!(p.hidden.len(), tokens * d, "hidden {:?}", p.hidden.shape);
            assert_eq!(p.weight.shape, [experts, d]);
            assert_eq!(p.bias.len(), experts);
        }
        Params { tokens: tokens as u32, experts: experts as u32, quads: d as u32 / 4 }
    }

    fn tensors(&self) -> Vec<&Tensor> {
        let (hidden, weight, bias) = match &self.predictor {
            Some(p) => (p.hidden, p.weight, p.bias),
            // Bound because a binding cannot be empty; not read.
            None => (self.x, self.gate_weight, self.gate_weight),
        };
        vec![self.x, self.gate_weight, hidden, weight, bias, self.gates, self.capacities]
    }

    fn constants(&self, _: Profile) -> Vec<(&'static str, f64)> {
        vec![
            ("EXPERT_LANES", self.expert_lanes() as f64),
            ("PREDICTS", f64::from(u8::from(self.predictor.is_some()))),
        ]
    }

    fn groups(&self, _: Profile) -> [u32; 3] {
        spread(self.gates.shape[0].div_ceil(PAIRS / self.expert_lanes()))
    }
}

/// Inputs of [`reference()`], all row-major.
#[cfg(test)]
#[derive(Clone, Copy)]
pub(crate) struct Inputs<'a> {
    /// `[S, D]`.
    pub x: &'a [f32],
    /// `[E, D]`.
    pub gate_weight: &'a [f32],
    /// `[S, D]`.
    pub hidden: &'a [f32],
    /// `[E, D]`.
    pub weight: &'a [f32],
    /// `[E]`.
    pub bias: &'a [f32],
}

/// The same on the processor, in f64: gates and capacities, `[S, E]` each.
#[cfg(test)]
pub(crate) fn reference(i: Inputs<'_>, d: usize) -> (Vec<f64>, Vec<f64>) {
    let dot = |a: &[f32], b: &[f32]| -> f64 {
        a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
    };
    let (mut gates, mut capacities) = (Vec::new(), Vec::new());
    for (x, hidden) in i.x.chunks(d).zip(i.hidden.chunks(d)) {
        let logits: Vec<f64> = i.gate_weight.chunks(d).map(|w| dot(x, w)).collect();
        let highest = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = logits.iter().map(|l| (l - highest).exp()).sum();
        gates.extend(logits.iter().map(|l| (l - highest).exp() / sum));
        let z = i.weight.chunks(d).zip(i.bias).map(|(w, &b)| dot(hidden, w) + f64::from(b));
        capacities.extend(z.map(|z| 1.0 / (1.0 + (-z).exp())));
    }
    (gates, capacities)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::testing::{assert_close, poisoned, read, run, spiky, tensor};

    fn check(s: usize, e: usize, d: usize, scale: f32) {
        let (x, hidden) = (spiky(s * d, 1, scale), spiky(s * d, 2, scale));
        let (gate_weight, weight) = (spiky(e * d, 3, 0.3), spiky(e * d, 4, 0.3));
        let bias = spiky(e, 5, 1.0);
        let (gates, capacities) = (poisoned(&[s, e]), poisoned(&[s, e]));
        run(&RouteScore {
            x: &tensor(&[s, d], &x),
            gate_weight: &tensor(&[e, d], &gate_weight),
            predictor: Some(Predictor {
                hidden: &tensor(&[s, d], &hidden),
                weight: &tensor(&[e, d], &weight),
                bias: &tensor(&[e], &bias),
            }),
            gates: &gates,
            capacities: &capacities,
        });
        let inputs = Inputs {
            x: &x,
            gate_weight: &gate_weight,
            hidden: &hidden,
            weight: &weight,
            bias: &bias,
        };
        let (want_gates, want_capacities) = reference(inputs, d);
        let narrow = |v: Vec<f64>| v.into_iter().map(|x| x as f32).collect::<Vec<_>>();
        // A logit of some hundreds carries an error of 1e-4, and the softmax passes it on whole.
        assert_close(&read(&gates), &narrow(want_gates), 1e-4 * scale.max(1.0), 1e-4);
        let got = read(&capacities);
        assert_close(&got, &narrow(want_capacities), 1e-4 * scale.max(1.0), 1e-4);
        assert!(got.iter().all(|&p| p > 0.0), "a threshold of 0 must let every token pass");
    }

    #[test]
    fn scores_agree_with_f64_at_awkward_sizes() {
        for (s, e, d) in [
            (1, 1, 4),
            (7, 3, 12),
            (8, 32, 64),
            (9, 32, 64),
            (77, 16, 48),
            (257, 5, 20),
            (1757, 16, 24),
        ] {
            check(s, e, d, 1.0);
        }
    }

    #[test]
    fn logits_beyond_the_range_of_exp_stay_finite() {
        check(33, 8, 16, 100.0);
    }

    #[test]
    fn without_a_predictor_capacities_are_left_alone() {
        let (x, w) = (spiky(5 * 8, 1, 1.0), spiky(3 * 8, 2, 1.0));
        let (gates, capacities) = (poisoned(&[5, 3]), tensor(&[5, 3], &[7.0f32; 15]));
        let (x_tensor, w_tensor) = (tensor(&[5, 8], &x), tensor(&[3, 8], &w));
        run(&RouteScore {
            x: &x_tensor,
            gate_weight: &w_tensor,
            predictor: None,
            gates: &gates,
            capacities: &capacities,
        });
        assert_eq!(read(&capacities), [7.0; 15]);
        for row in read(&gates).chunks(3) {
            assert!((row.iter().sum::<f32>() - 1.0).abs() < 1e-6, "{row:?}");
        }
    }
}
