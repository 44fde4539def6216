//! The router by prototypes of `ProMoE` (Wei et al. 2025, arXiv 2510.24711): cosines of tokens and prototypes, and an
//! expert of its own for samples without a label.

use super::RecordedScores;
use super::route_score::{LANES, Pairs};
use crate::gpu::{Kernel, Profile, Shader, Tensor};
use crate::model::MOST_EXPERTS;
#[cfg(test)]
use crate::model::NOT_ASKED;

/// The uniform.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
pub struct Params {
    tokens: u32,
    experts: u32,
    prototypes: u32,
    quads: u32,
    sample: u32,
    unconditional_row: u32,
    recorded_first: u32,
}

/// Arguments.
pub struct RoutePrototypes<'a> {
    /// Modulated tokens, `[S, D]`; D is a multiple of 4.
    pub x: &'a Tensor,
    /// f32, `[E, D]`, or `[E - 1, D]` where the last expert takes samples without a label.
    pub prototypes: &'a Tensor,
    /// Rows of the one label table that the samples have, and those that are blended into them, `[2, 1, B]`, u32.
    pub rows: &'a Tensor,
    /// Share of the latter, `[1, B]`.
    pub shares: &'a Tensor,
    /// The row whose samples go to the last expert; `None` where every expert has a prototype.
    pub unconditional_row: Option<u32>,
    /// Whether a token takes the nearest expert; otherwise experts choose.
    pub tokens_choose: bool,
    /// Out, `[S, E]`: if tokens choose, the cosine for the expert that a token takes, or 1 for the last one, and 0 for the
    /// others; the scores if experts do.
    pub gate: &'a Tensor,
    /// Out: the cosines, for whoever wants them; the least f16 where an expert is not asked.
    pub scores: RecordedScores<'a>,
}

impl Kernel for RoutePrototypes<'_> {
    const SHADER: Shader = shader!("route_prototypes", consts: [LANES]);
    type Params = Params;

    fn params(&self) -> Params {
        let &[tokens, experts] = &*self.gate.shape else { panic!("gate {:?}", self.gate.shape) };
        let &[prototypes, d] = &*self.prototypes.shape else {
            panic!("prototypes {:?}", self.prototypes.shape)
        };
        assert!((1..=MOST_EXPERTS).contains(&experts) && d.is_multiple_of(4), "E {experts}, D {d}");
        assert_eq!(prototypes + usize::from(self.unconditional_row.is_some()), experts);
        assert_eq!(self.x.len(), tokens * d, "x {:?}", self.x.shape);
        let samples = self.shares.len();
        assert_eq!(self.rows.len(), 2 * samples, "rows {:?}", self.rows.shape);
        assert!(tokens.is_multiple_of(samples), "{tokens} tokens of {samples} samples");
        let RecordedScores { to, first } = self.scores;
        assert!(to.is_empty() || first + self.gate.len() <= to.len(), "scores {:?}", to.shape);
        Params {
            tokens: tokens as u32,
            experts: experts as u32,
            prototypes: prototypes as u32,
            quads: d as u32 / 4,
            sample: (tokens / samples) as u32,
            unconditional_row: self.unconditional_row.unwrap_or(0),
            recorded_first: first as u32,
        }
    }

    fn tensors(&self) -> Vec<&Tensor> {
        vec![self.x, self.prototypes, self.rows, self.shares, self.gate, self.scores.to]
    }

    fn constants(&self, _: Profile) -> Vec<(&'static str, f64)> {
        let mut constants = Pairs::of(self.gate).constants().to_vec();
        constants.push(("RECORDS", f64::from(u8::from(!self.scores.to.is_empty()))));
        constants.push(("TOKENS_CHOOSE", f64::from(u8::from(self.tokens_choose))));
        constants
    }

    fn groups(&self, _: Profile) -> [u32; 3] {
        Pairs::of(self.gate).groups(self.gate.shape[0])
    }
}

/// The same on the processor, in f64: weights if tokens choose, and scores, `[S, E]` each. `is_unlabelled` has an entry for each token, and is
/// empty where every expert has a prototype.
#[cfg(test)]
pub(crate) fn reference(
    x: &[f32],
    prototypes: &[f32],
    d: usize,
    is_unlabelled: &[bool],
) -> (Vec<f64>, Vec<f64>) {
    let length = |x: &[f32]| dot(x, x).sqrt().max(1e-12);
    let dot_of = |x: &[f32], c: &[f32]| dot(x, c) / length(x) / length(c);
    let (mut gate, mut scores) = (Vec::new(), Vec::new());
    for (s, x) in x.chunks(d).enumerate() {
        let mut row: Vec<f64> = prototypes.chunks(d).map(|c| dot_of(x, c)).collect();
        if let Some(&alone) = is_unlabelled.get(s) {
            row.push(NOT_ASKED.into());
            if alone {
                row.fill(NOT_ASKED.into());
                *row.last_mut().expect("an expert") = 1.0;
            }
        }
        let best = (0..row.len()).rev().max_by(|&a, &b| row[a].total_cmp(&row[b]));
        gate.extend((0..row.len()).map(|e| if Some(e) == best { row[e] } else { 0.0 }));
        scores.extend(row);
    }
    (gate, scores)
}

#[cfg(test)]
fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
}

#[cfg(test)]
mod tests {
    use super::super::route_score::unpack;
    use super::*;
    use crate::gpu::testing::{assert_close, poisoned, read, read_u32, run, spiky, tensor};

    /// Samples with another row, with the row, and with it as a part of a blend.
    fn check(tokens: usize, prototypes: usize, d: usize, unconditional_row: Option<u32>) {
        for tokens_choose in [true, false] {
            check_one(tokens, prototypes, d, unconditional_row, tokens_choose);
        }
    }

    fn check_one(
        tokens: usize,
        prototypes: usize,
        d: usize,
        unconditional_row: Option<u32>,
        tokens_choose: bool,
    ) {
        let (rows, shares) = ([3_u32, 7, 7, 3, 7, 1], [0.0_f32, 0.0, 0.25]);
        let (s, e) = (3 * tokens, prototypes + usize::from(unconditional_row.is_some()));
        let (mut x, c) = (spiky(s * d, 1, 8.0), spiky(prototypes * d, 2, 0.3));
        // Nothing to compare: the first expert takes it.
        x[..d].fill(0.0);
        let gate = poisoned(&[s, e]);
        let recorded = tensor(&[s * e + 3], &vec![7u32; s * e + 3]);
        run(&RoutePrototypes {
            x: &tensor(&[s, d], &x),
            prototypes: &tensor(&[prototypes, d], &c),
            rows: &tensor(&[2, 1, 3], &rows),
            shares: &tensor(&[1, 3], &shares),
            unconditional_row,
            tokens_choose,
            gate: &gate,
            scores: RecordedScores { to: &recorded, first: 2 },
        });
        let alone: Vec<bool> = match unconditional_row {
            Some(_) => (0..s).map(|token| token / tokens == 1).collect(),
            None => Vec::new(),
        };
        let (weights, scores) = reference(&x, &c, d, &alone);
        let narrow = |v: &[f64]| v.iter().map(|&x| x as f32).collect::<Vec<_>>();
        let got = read(&gate);
        assert_close(&got, &narrow(if tokens_choose { &weights } else { &scores }), 1e-5, 1e-5);
        let chosen = |row: &[f32]| row.iter().filter(|&&weight| weight != 0.0).count();
        let one = got.chunks(e).skip(1).all(|row| chosen(row) == 1);
        assert!(one || !tokens_choose, "one expert for each token");
        let words = read_u32(&recorded);
        assert_eq!((&words[..2], words[s * e + 2]), (&[7; 2][..], 7));
        for (&word, want) in words[2..].iter().zip(scores) {
            let [score, nothing] = unpack(word).map(half::f16::to_f64);
            assert!((score - want).abs() <= 1e-3 * want.abs().max(0.1), "{score} for {want}");
            assert!(nothing.abs() < f64::MIN_POSITIVE, "{nothing}");
        }
    }

    #[test]
    fn cosines_agree_with_f64_at_awkward_sizes() {
        for (tokens, prototypes, d) in
            [(1, 1, 4), (7, 3, 12), (16, 12, 384), (9, 33, 64), (5, 63, 20), (64, 8, 1152)]
        {
            check(tokens, prototypes, d, Some(7));
            check(tokens, prototypes, d, None);
        }
    }

    #[test]
    fn equal_prototypes_give_a_token_to_the_first() {
        let (x, c) = (spiky(40, 1, 1.0), [1.0_f32, 2.0, 3.0, 4.0].repeat(5));
        let (gate, nothing) = (poisoned(&[10, 5]), tensor::<u32>(&[0], &[]));
        run(&RoutePrototypes {
            x: &tensor(&[10, 4], &x),
            prototypes: &tensor(&[5, 4], &c),
            rows: &tensor(&[2, 1, 1], &[0u32; 2]),
            shares: &tensor(&[1, 1], &[0.0f32]),
            unconditional_row: None,
            tokens_choose: true,
            gate: &gate,
            scores: RecordedScores { to: &nothing, first: 0 },
        });
        for row in read(&gate).chunks(5) {
            assert!(row[0] != 0.0 && row[1..].iter().all(|&weight| weight == 0.0), "{row:?}");
        }
    }
}
