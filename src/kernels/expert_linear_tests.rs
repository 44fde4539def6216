//! Tests of the experts' layers, both variants: every routing shape, every way to split the work.

use super::*;
use crate::gpu::testing::{PROFILES, assert_close, poisoned, read, run_variant, spiky, tensor};
use crate::kernels::weights::{pack_rows, stored};

/// A routed pool and a bank of experts.
struct Case {
    s: usize,
    n: usize,
    k: usize,
    lists: Vec<Vec<u32>>,
    form: ReferenceForm,
    precision: WeightPrecision,
    /// Size of the inputs.
    scale: f32,
    /// Number of parts of the bank and of the rows.
    banks: usize,
    chunks: usize,
}

impl Case {
    fn new(s: usize, n: usize, k: usize, lists: Vec<Vec<u32>>) -> Self {
        let form = ReferenceForm::Linear;
        let precision = WeightPrecision::F16;
        Self { s, n, k, lists, form, precision, scale: 1.0, banks: 1, chunks: 1 }
    }

    /// Weights as the kernel will see them, and as the tensor's words.
    fn bank(&self, seed: u32) -> (Vec<f32>, Vec<u32>) {
        let exact = spiky(self.lists.len() * self.n * self.k, seed, 0.2);
        let words = pack_rows(&exact, self.k, self.precision);
        (stored(&exact, self.k, self.precision), words)
    }

    fn rows(&self) -> usize {
        self.lists.iter().map(Vec::len).sum()
    }

    /// Runs the layer in one variant and compares every row, and that nothing else was written.
    fn check(&self, gathers: bool, profile: Profile) {
        let (e, n, k) = (self.lists.len(), self.n, self.k);
        let rows = self.rows();
        let worst = e * self.s;
        let (w, w_words) = self.bank(1);
        let (up, up_words) = self.bank(2);
        let (bias, up_bias) = (spiky(e * n, 3, 0.5), spiky(e * n, 5, 0.5));
        // Packed input has rows beyond the valid ones: NaN, as the layer before leaves them.
        let mut x = spiky(if gathers { self.s } else { rows } * k, 4, self.scale);
        x.resize(if gathers { self.s } else { worst } * k, f32::NAN);
        let x_tensor = tensor(&[x.len() / k, k], &x);
        let counts: Vec<u32> = self.lists.iter().map(|l| l.len() as u32).collect();
        let mut chosen = vec![u32::MAX; worst];
        for (row, list) in chosen.chunks_mut(self.s).zip(&self.lists) {
            row[..list.len()].copy_from_slice(list);
        }
        let (counts, chosen) = (tensor(&[e], &counts), tensor(&[e, self.s], &chosen));
        let [bias_tensor, up_bias_tensor] = [&bias, &up_bias].map(|bias| tensor(&[e, n], bias));
        let y = poisoned(&[worst, n]);

        let per_bank = e.div_ceil(self.banks);
        let per_chunk = worst.div_ceil(self.chunks);
        for first in (0..e).step_by(per_bank) {
            let experts = first..(first + per_bank).min(e);
            let words = w_words.len() / e;
            let part = |all: &[u32]| {
                let part = &all[experts.start * words..experts.end * words];
                tensor(&[experts.len(), n, words / n], part)
            };
            let (weights, up_weights) = (part(&w_words), part(&up_words));
            for row in (0..worst).step_by(per_chunk) {
                let args = ExpertLinear {
                    x: &x_tensor,
                    source: if gathers { Source::Tokens } else { Source::Rows(0) },
                    counts: &counts,
                    chosen: &chosen,
                    weights: &weights,
                    precision: self.precision,
                    experts: experts.clone(),
                    form: match self.form {
                        ReferenceForm::Linear => Form::Linear(Some(&bias_tensor)),
                        ReferenceForm::Gelu => Form::Gelu(Some(&bias_tensor)),
                        ReferenceForm::SwiGlu => Form::SwiGlu {
                            up: &up_weights,
                            biases: Some([&bias_tensor, &up_bias_tensor]),
                        },
                    },
                    rows: row..(row + per_chunk).min(worst),
                    y: &y,
                    y_first: 0,
                };
                run_variant(&args, profile);
            }
        }

        let got = read(&y);
        let mut want = Vec::new();
        for (i, list) in self.lists.iter().enumerate() {
            let matrix = i * n * k..(i + 1) * n * k;
            let own = |all: &[f32]| all[i * n..(i + 1) * n].to_vec();
            let bias = match self.form {
                ReferenceForm::SwiGlu => [own(&bias), own(&up_bias)].concat(),
                _ => own(&bias),
            };
            for &s in list {
                let source = if gathers { s as usize } else { want.len() / n };
                let x = &x[source * k..(source + 1) * k];
                let row = reference(self.form, x, &w[matrix.clone()], &up[matrix.clone()], &bias);
                want.extend(row.iter().map(|&v| v as f32));
            }
        }
        // K terms up to 20 in size and an f32 sum; SwiGLU multiplies two of them.
        let absolute = 1e-4 * self.scale * (k as f32 / 16.0).max(1.0);
        assert_close(&got[..rows * n], &want, absolute, 2e-5);
        assert!(got[rows * n..].iter().all(|v| v.is_nan()), "wrote beyond the last row");
    }

    fn check_both(&self) {
        for profile in PROFILES {
            self.check(true, profile);
            self.check(false, profile);
        }
    }
}

/// `n` of the tokens, spread over all of them.
fn some(tokens: usize, n: usize) -> Vec<u32> {
    (0..n).map(|i| (i * tokens / n) as u32).collect()
}

#[test]
fn every_row_meets_its_own_expert_at_awkward_sizes() {
    for (s, n, k, counts) in [
        (1, 4, 4, vec![1]),
        (40, 64, 16, vec![31, 32, 33]),
        (77, 65, 20, vec![7, 8, 9, 77]),
        (257, 12, 36, vec![257, 1, 100]),
    ] {
        let lists = counts.iter().map(|&n| some(s, n)).collect();
        Case::new(s, n, k, lists).check_both();
    }
}

#[test]
fn a_large_pool_of_one_in_seven_tokens() {
    let lists = (0..3).map(|e| (e..1757).step_by(7).collect()).collect();
    Case::new(1757, 8, 12, lists).check_both();
}

#[test]
fn experts_may_take_no_token_or_every_token() {
    for counts in [[0, 0, 0], [0, 50, 0], [50, 0, 50], [50, 50, 50], [0, 0, 1]] {
        let lists = counts.iter().map(|&n| some(50, n)).collect();
        Case::new(50, 20, 8, lists).check_both();
    }
}

#[test]
fn gelu_and_swiglu_in_every_precision() {
    for form in [ReferenceForm::Linear, ReferenceForm::Gelu, ReferenceForm::SwiGlu] {
        use WeightPrecision::{F16, F32, Int4, Int8};
        for (precision, k) in [(F16, 24), (F32, 24), (Int8, 24), (Int4, 24), (Int4, 140)] {
            // SwiGLU packs 32 columns of two matrices into one tile: sizes around it.
            for n in [31, 33, 76] {
                let lists = vec![some(45, 3), some(45, 40)];
                // Small sums: a large one goes through GELU unchanged.
                Case { form, precision, scale: 0.3, ..Case::new(45, n, k, lists) }.check_both();
            }
        }
    }
}

#[test]
fn banks_and_rows_may_be_split_anywhere() {
    use WeightPrecision::{F16, Int4, Int8};
    let splits = [(2, 1, F16), (1, 2, Int4), (3, 3, Int8), (5, 7, Int4), (2, 41, Int8)];
    for (banks, chunks, precision) in splits {
        let lists = [9, 0, 41, 33, 12].iter().map(|&n| some(41, n)).collect();
        let form = ReferenceForm::Gelu;
        Case { form, precision, banks, chunks, ..Case::new(41, 10, 8, lists) }.check_both();
    }
}

#[test]
fn the_dispatch_is_large_enough_for_any_routing_and_not_much_larger() {
    let size = 32;
    for (experts, tokens) in [(1, 1), (3, 33), (4, 64), (16, 100)] {
        let all = experts * tokens;
        for rows in [1, 31, 32, all / 2 + 1, all] {
            let worst = worst_tiles(rows, experts, tokens, size);
            // Spread `rows` rows so that as many lists as possible end in a tile of one row.
            let mut left = rows.min(all);
            let mut tiles = 0;
            for open in (1..=experts).rev() {
                let most = left.saturating_sub(open - 1).min(tokens);
                let n = if most > 1 { (most - 1) / size * size + 1 } else { most };
                tiles += n.div_ceil(size);
                left -= n;
            }
            assert!(tiles <= worst, "{tiles} tiles of {worst}: {rows} rows, {experts} x {tokens}");
            assert!(
                worst <= rows / size + experts,
                "{worst} tiles for {rows} rows, {experts} experts"
            );
        }
    }
}

#[test]
fn layers_chain_through_a_chunk_that_begins_anywhere() {
    // The engine gives h and y the rows of one chunk only, from row 0 of the buffer.
    let (s, d, m) = (37, 8, 12);
    let lists = [some(s, 20), some(s, 37), some(s, 5)];
    let counts: Vec<u32> = lists.iter().map(|l| l.len() as u32).collect();
    let mut chosen = vec![0u32; 3 * s];
    for (row, list) in chosen.chunks_mut(s).zip(&lists) {
        row[..list.len()].copy_from_slice(list);
    }
    let (x, w1, w2) = (spiky(s * d, 1, 1.0), spiky(3 * m * d, 2, 0.3), spiky(3 * d * m, 3, 0.3));
    let (x_tensor, counts, chosen) =
        (tensor(&[s, d], &x), tensor(&[3], &counts), tensor(&[3, s], &chosen));
    let (w1_tensor, w2_tensor) = (tensor(&[3, m, d], &w1), tensor(&[3, d, m], &w2));
    let rows = 23..62;
    for profile in PROFILES {
        let (h, y) = (poisoned(&[39, m]), poisoned(&[39, d]));
        let up = ExpertLinear {
            x: &x_tensor,
            source: Source::Tokens,
            counts: &counts,
            chosen: &chosen,
            weights: &w1_tensor,
            precision: WeightPrecision::F32,
            experts: 0..3,
            form: Form::Gelu(None),
            rows: rows.clone(),
            y: &h,
            y_first: 23,
        };
        let down = ExpertLinear {
            x: &h,
            source: Source::Rows(23),
            counts: &counts,
            chosen: &chosen,
            weights: &w2_tensor,
            precision: WeightPrecision::F32,
            experts: 0..3,
            form: Form::Linear(None),
            rows: rows.clone(),
            y: &y,
            y_first: 23,
        };
        run_variant(&up, profile);
        run_variant(&down, profile);
        let mut want = Vec::new();
        for (i, list) in lists.iter().enumerate() {
            let matrix = i * m * d..(i + 1) * m * d;
            for &s in list {
                let x = &x[s as usize * d..(s as usize + 1) * d];
                let h = reference(ReferenceForm::Gelu, x, &w1[matrix.clone()], &[], &[]);
                let h: Vec<f32> = h.iter().map(|&v| v as f32).collect();
                want.push(reference(ReferenceForm::Linear, &h, &w2[matrix.clone()], &[], &[]));
            }
        }
        let want: Vec<f32> =
            want.concat()[rows.start * d..rows.end * d].iter().map(|&v| v as f32).collect();
        assert_close(&read(&y), &want, 1e-3, 2e-4);
    }
}

#[test]
fn rows_outside_the_range_are_not_written() {
    let (s, k, n) = (20, 4, 8);
    let mut chosen: Vec<u32> = (0..s as u32).collect();
    chosen.extend(0..s as u32);
    let (x, w) = (spiky(s * k, 1, 1.0), spiky(2 * n * k, 2, 0.3));
    let (x, w) = (tensor(&[s, k], &x), tensor(&[2, n, k], &w));
    let (counts, chosen) = (tensor(&[2], &[s as u32; 2]), tensor(&[2, s], &chosen));
    for profile in PROFILES {
        let y = poisoned(&[2 * s, n]);
        let args = ExpertLinear {
            x: &x,
            source: Source::Tokens,
            counts: &counts,
            chosen: &chosen,
            weights: &w,
            precision: WeightPrecision::F32,
            experts: 0..2,
            form: Form::Linear(None),
            rows: 3..25,
            y: &y,
            y_first: 0,
        };
        run_variant(&args, profile);
        for (row, values) in read(&y).chunks(n).enumerate() {
            let is_written = values.iter().all(|v| v.is_finite());
            let is_untouched = values.iter().all(|v| v.is_nan());
            assert!(if (3..25).contains(&row) { is_written } else { is_untouched }, "row {row}");
        }
    }
}
