//! Gates and capacity probabilities of every token for every expert, in one dispatch.
//! `gate = softmax(x · Wᵍᵀ)`, `need = σ(hidden · W₂ᵀ + b₂)` (paper §3.2, §3.3).

use half::f16;

use crate::gpu::{Kernel, Profile, Shader, Tensor, spread};
use crate::model::MOST_EXPERTS;

/// Lanes of a workgroup.
pub(super) const LANES: usize = 256;

/// Most lanes that share a pair of a token and an expert.
const MOST_PARTS: usize = 8;

/// The uniform.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
pub struct Params {
    tokens: u32,
    experts: u32,
    quads: u32,
    recorded_first: u32,
    chosen: u32,
    scale: f32,
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

/// The choice of a sigmoid router; see the shader.
#[derive(Clone, Copy)]
pub struct Choice<'a> {
    /// Added to the scores for the choice, f32, `[E]` in all.
    pub bias: &'a Tensor,
    /// Experts of a token.
    pub experts: usize,
    /// Sum of a token's weights.
    pub scale: f32,
}

/// Where the scores are recorded: gate and need before softmax and sigmoid.
#[derive(Clone, Copy)]
pub struct RecordedScores<'a> {
    /// Out: pairs of f16 in a word, the gate in the low half, `[S, E]` of them. Empty where nobody wants them.
    /// Without a predictor the high half is 0.
    pub to: &'a Tensor,
    /// Word of the first pair.
    pub first: usize,
}

/// Arguments.
pub struct RouteScore<'a> {
    /// Modulated tokens, `[S, D]`; D is a multiple of 4.
    pub x: &'a Tensor,
    /// Router, f32, `[E, D]`.
    pub gate_weight: &'a Tensor,
    /// `None` for the baselines, which have none: `need` is then left as it is.
    pub predictor: Option<Predictor<'a>>,
    /// `None` where the gate is a softmax. Excludes a predictor.
    pub choice: Option<Choice<'a>>,
    /// Out: softmax over experts, or the weights of the chosen ones and 0 for the others, `[S, E]`.
    pub gate: &'a Tensor,
    /// Out: probability that the expert should take the token, `[S, E]`.
    pub need: &'a Tensor,
    /// Out: both before softmax and sigmoid, for whoever wants them.
    pub scores: RecordedScores<'a>,
}

/// How a workgroup is shared out among pairs of a token and an expert, in every kernel that scores them.
pub(super) struct Pairs {
    /// Pairs per token: E rounded up to a power of two, so that a token never spans two workgroups.
    expert_lanes: usize,
    /// Lanes that share a pair: all pairs of a token are in one workgroup.
    parts: usize,
}

impl Pairs {
    /// For scores `[S, E]`.
    pub(super) fn of(scores: &Tensor) -> Self {
        let expert_lanes = scores.shape[1].next_power_of_two();
        Self { expert_lanes, parts: MOST_PARTS.min(LANES / expert_lanes) }
    }

    /// The constants of the shader.
    pub(super) fn constants(&self) -> [(&'static str, f64); 2] {
        [("EXPERT_LANES", self.expert_lanes as f64), ("PARTS", self.parts as f64)]
    }

    /// Workgroups for `S` tokens.
    pub(super) fn groups(&self, tokens: usize) -> [u32; 3] {
        spread(tokens.div_ceil(LANES / self.parts / self.expert_lanes))
    }
}

impl Kernel for RouteScore<'_> {
    const SHADER: Shader = shader!("route_score", consts: [LANES]);
    type Params = Params;

    fn params(&self) -> Params {
        let &[tokens, experts] = &*self.gate.shape else { panic!("gate {:?}", self.gate.shape) };
        let d = self.gate_weight.shape[1];
        assert!((1..=MOST_EXPERTS).contains(&experts) && d.is_multiple_of(4), "E {experts}, D {d}");
        assert_eq!(self.x.len(), tokens * d, "x {:?}", self.x.shape);
        assert_eq!(self.gate_weight.shape, [experts, d]);
        assert_eq!(self.need.shape, self.gate.shape);
        let RecordedScores { to, first } = self.scores;
        assert!(to.is_empty() || first + self.gate.len() <= to.len(), "scores {:?}", to.shape);
        if let Some(choice) = self.choice {
            assert!(self.predictor.is_none() && choice.bias.len() == experts);
        }
        if let Some(p) = self.predictor {
            assert_eq!(p.hidden.len(), tokens * d, "hidden {:?}", p.hidden.shape);
            assert_eq!(p.weight.shape, [experts, d]);
            assert_eq!(p.bias.len(), experts);
        }
        Params {
            tokens: tokens as u32,
            experts: experts as u32,
            quads: d as u32 / 4,
            recorded_first: first as u32,
            chosen: self.choice.map_or(0, |choice| choice.experts as u32),
            scale: self.choice.map_or(1.0, |choice| choice.scale),
        }
    }

    fn tensors(&self) -> Vec<&Tensor> {
        // Bound because a binding cannot be empty; not read without a predictor.
        let bias = self.choice.map_or(self.gate_weight, |choice| choice.bias);
        let unread = (self.x, self.gate_weight, bias);
        let (hidden, weight, bias) =
            self.predictor.as_ref().map_or(unread, |p| (p.hidden, p.weight, p.bias));
        let out = [self.gate, self.need, self.scores.to];
        [self.x, self.gate_weight, hidden, weight, bias].into_iter().chain(out).collect()
    }

    fn constants(&self, _: Profile) -> Vec<(&'static str, f64)> {
        let mut constants = Pairs::of(self.gate).constants().to_vec();
        constants.push(("PREDICTS", f64::from(u8::from(self.predictor.is_some()))));
        constants.push(("RECORDS", f64::from(u8::from(!self.scores.to.is_empty()))));
        constants.extend(self.choice.map(|_| ("SIGMOID", 1.0)));
        constants
    }

    fn groups(&self, _: Profile) -> [u32; 3] {
        Pairs::of(self.gate).groups(self.gate.shape[0])
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

/// A pair of f16 from a word of [`RecordedScores`]: gate and need.
pub fn unpack(word: u32) -> [f16; 2] {
    [word & 0xffff, word >> 16].map(|half| f16::from_bits(half as u16))
}

/// The same on the processor, in f64: gate and need, `[S, E]` each.
#[cfg(test)]
pub(crate) fn reference(i: Inputs<'_>, d: usize) -> (Vec<f64>, Vec<f64>) {
    let dot = |a: &[f32], b: &[f32]| -> f64 {
        a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
    };
    let (mut gate, mut need) = (Vec::new(), Vec::new());
    for (x, hidden) in i.x.chunks(d).zip(i.hidden.chunks(d)) {
        let logits: Vec<f64> = i.gate_weight.chunks(d).map(|w| dot(x, w)).collect();
        let highest = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = logits.iter().map(|l| (l - highest).exp()).sum();
        gate.extend(logits.iter().map(|l| (l - highest).exp() / sum));
        let z = i.weight.chunks(d).zip(i.bias).map(|(w, &b)| dot(hidden, w) + f64::from(b));
        need.extend(z.map(|z| 1.0 / (1.0 + (-z).exp())));
    }
    (gate, need)
}

/// With a sigmoid router, in f64: weights and scores, `[S, E]` each; `k` experts whose weights sum to `scale`.
#[cfg(test)]
pub(crate) fn reference_choice(
    x: &[f32],
    gate_weight: &[f32],
    bias: &[f32],
    (k, scale): (usize, f64),
) -> (Vec<f64>, Vec<f64>) {
    let (e, d) = (bias.len(), gate_weight.len() / bias.len());
    let (mut gate, mut scores) = (Vec::new(), Vec::new());
    for x in x.chunks(d) {
        let dot =
            |w: &[f32]| w.iter().zip(x).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum::<f64>();
        let row: Vec<f64> = gate_weight.chunks(d).map(|w| 1.0 / (1.0 + (-dot(w)).exp())).collect();
        let mut order: Vec<usize> = (0..e).collect();
        order.sort_by(|&a, &b| {
            (row[b] + f64::from(bias[b])).total_cmp(&(row[a] + f64::from(bias[a])))
        });
        let chosen = &order[..k];
        let sum = if k > 1 { chosen.iter().map(|&e| row[e]).sum() } else { 1.0 };
        gate.extend((0..e).map(|e| if chosen.contains(&e) { scale * row[e] / sum } else { 0.0 }));
        scores.extend(row);
    }
    (gate, scores)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::testing::{assert_close, poisoned, read, read_u32, run, spiky, tensor};

    fn check(s: usize, e: usize, d: usize, scale: f32) {
        let (x, hidden) = (spiky(s * d, 1, scale), spiky(s * d, 2, scale));
        let (gate_weight, weight) = (spiky(e * d, 3, 0.3), spiky(e * d, 4, 0.3));
        let bias = spiky(e, 5, 1.0);
        let [gate, need] = [(); 2].map(|()| poisoned(&[s, e]));
        // Among others, which stay as they are.
        let logits = tensor(&[s * e + 5], &vec![7u32; s * e + 5]);
        run(&RouteScore {
            x: &tensor(&[s, d], &x),
            gate_weight: &tensor(&[e, d], &gate_weight),
            predictor: Some(Predictor {
                hidden: &tensor(&[s, d], &hidden),
                weight: &tensor(&[e, d], &weight),
                bias: &tensor(&[e], &bias),
            }),
            choice: None,
            gate: &gate,
            need: &need,
            scores: RecordedScores { to: &logits, first: 3 },
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
        assert_close(&read(&gate), &narrow(want_gates), 1e-4 * scale.max(1.0), 1e-4);
        let got = read(&need);
        assert_close(&got, &narrow(want_capacities), 1e-4 * scale.max(1.0), 1e-4);
        assert!(got.iter().all(|&p| p > 0.0), "a threshold of 0 must let every token pass");

        // The recorded logits are the exact ones in f16: half a unit in the last place, and what summing in f32 costs.
        let dot = |a: &[f32], b: &[f32]| -> f64 {
            a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
        };
        let words = read_u32(&logits);
        assert_eq!((&words[..3], &words[s * e + 3..]), (&[7; 3][..], &[7; 2][..]));
        let pairs = words[3..s * e + 3].iter().map(|&word| unpack(word)).collect::<Vec<_>>();
        for (i, pair) in pairs.into_iter().enumerate() {
            let (t, expert) = (i / e, i % e);
            let row = |matrix: &[f32], r: usize| matrix[r * d..][..d].to_vec();
            let gate = dot(&row(&x, t), &row(&gate_weight, expert));
            let need = dot(&row(&hidden, t), &row(&weight, expert)) + f64::from(bias[expert]);
            for (got, want) in pair.into_iter().zip([gate, need]) {
                let want = want.clamp(-65_504.0, 65_504.0);
                let error = (got.to_f64() - want).abs();
                assert!(error <= want.abs() / 2000.0 + 1e-4 * f64::from(scale), "{got}, {want}");
            }
        }
    }

    #[test]
    fn logits_beyond_f16_become_its_largest_number() {
        let (gate, need, logits) = (poisoned(&[1, 2]), poisoned(&[1, 2]), poisoned(&[1, 2]));
        let x = tensor(&[1, 4], &[1e3f32, 0.0, 0.0, 0.0]);
        let weight = tensor(&[2, 4], &[1e3f32, 0.0, 0.0, 0.0, -1e3, 0.0, 0.0, 0.0]);
        let bias = tensor(&[2], &[0.0f32; 2]);
        run(&RouteScore {
            x: &x,
            gate_weight: &weight,
            predictor: Some(Predictor { hidden: &x, weight: &weight, bias: &bias }),
            choice: None,
            gate: &gate,
            need: &need,
            scores: RecordedScores { to: &logits, first: 0 },
        });
        let got = read_u32(&logits).into_iter().map(unpack).collect::<Vec<_>>();
        assert_eq!(got, [[f16::MAX; 2], [f16::MIN; 2]]);
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
            (5, 33, 20),
            (130, 64, 48),
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
        let (gate, need) = (poisoned(&[5, 3]), tensor(&[5, 3], &[7.0f32; 15]));
        let (x_tensor, w_tensor) = (tensor(&[5, 8], &x), tensor(&[3, 8], &w));
        let logits = poisoned(&[5, 3]);
        run(&RouteScore {
            x: &x_tensor,
            gate_weight: &w_tensor,
            predictor: None,
            choice: None,
            gate: &gate,
            need: &need,
            scores: RecordedScores { to: &logits, first: 0 },
        });
        assert_eq!(read(&need), [7.0; 15]);
        assert!(read_u32(&logits).into_iter().all(|word| unpack(word)[1] == f16::ZERO));
        for row in read(&gate).chunks(3) {
            assert!((row.iter().sum::<f32>() - 1.0).abs() < 1e-6, "{row:?}");
        }
    }

    /// The choice and its weights in f64, and the score of each expert.
    #[test]
    fn a_sigmoid_router_weighs_what_it_chooses() {
        for (s, e, d, k) in [
            (1, 1, 4, 1),
            (7, 3, 12, 2),
            (257, 5, 20, 5),
            (77, 16, 48, 2),
            (33, 48, 24, 5),
            (9, 64, 8, 1),
        ] {
            let (x, weight, bias) = (spiky(s * d, 1, 1.0), spiky(e * d, 3, 0.3), spiky(e, 5, 0.5));
            let (gate, logits) = (poisoned(&[s, e]), poisoned(&[s, e]));
            run(&RouteScore {
                x: &tensor(&[s, d], &x),
                gate_weight: &tensor(&[e, d], &weight),
                predictor: None,
                choice: Some(Choice { bias: &tensor(&[1, e], &bias), experts: k, scale: 2.5 }),
                gate: &gate,
                need: &poisoned(&[s, e]),
                scores: RecordedScores { to: &logits, first: 0 },
            });
            let (want, scores) = reference_choice(&x, &weight, &bias, (k, 2.5));
            let want: Vec<f32> = want.into_iter().map(|v| v as f32).collect();
            let got = read(&gate);
            assert!(
                got.iter().zip(&want).all(|(got, want)| (*got > 0.0) == (*want > 0.0)),
                "the choice"
            );
            assert_close(&got, &want, 1e-5, 1e-5);
            for (word, score) in read_u32(&logits).into_iter().zip(scores) {
                let [got, need] = unpack(word);
                let error = (got.to_f64() - score.ln()).abs();
                assert!(
                    error <= score.ln().abs() / 2000.0 + 1e-4 && need == f16::ZERO,
                    "{got}, {score}"
                );
            }
        }
    }
}
