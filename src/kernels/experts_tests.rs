//! A routed block as a whole, compared with the dense reference, with every possible split.

use super::*;
use crate::gpu::testing::{assert_close, spiky};
use crate::gpu::{GpuOptions, Profile, read_now};
use crate::kernels::expert_linear::{ReferenceForm, reference};
use crate::kernels::weights::stored;
use crate::kernels::{Masks, NOT_TAKEN, Predictor, RecordedScores, RouteScore, RouteSelect};
use crate::model::Selection;

const B: usize = 3;
const T: usize = 15;
const S: usize = B * T;
const E: usize = 5;
const D: usize = 8;
const M: usize = 16;

/// What a routed block computes, and its inputs on the host.
struct Block {
    is_swiglu: bool,
    selection: Selection,
    precision: WeightPrecision,
    h: Vec<f32>,
    x: Vec<f32>,
    modulation: Vec<f32>,
    first: Vec<f32>,
    second: Vec<f32>,
    down: Vec<f32>,
    bias: Vec<f32>,
}

impl Block {
    fn new(is_swiglu: bool, selection: Selection) -> Self {
        // Weights that both precisions hold exactly.
        let weights =
            |seed| -> Vec<f32> { stored(&spiky(E * M * D, seed, 0.3), D, WeightPrecision::F16) };
        Self {
            is_swiglu,
            selection,
            precision: WeightPrecision::F32,
            h: spiky(S * D, 1, 1.0),
            x: spiky(S * D, 2, 1.0),
            modulation: spiky(B * 6 * D, 4, 0.5),
            first: weights(5),
            second: weights(6),
            down: weights(7),
            bias: spiky(E * (M + D), 8, 0.3),
        }
    }

    /// Every expert on every token in f64, masked by who took what: slow and plainly right.
    fn oracle(&self, gate: &[f32], positions: &[u32]) -> Vec<f32> {
        let first = stored(&self.first, D, self.precision);
        let second = stored(&self.second, D, self.precision);
        let down = stored(&self.down, M, self.precision);
        let form = if self.is_swiglu { ReferenceForm::SwiGlu } else { ReferenceForm::Gelu };
        let bias = |range: Range<usize>| if self.is_swiglu { &[] } else { &self.bias[range] };
        let mut want = Vec::new();
        for (s, h) in self.h.chunks(D).enumerate() {
            let mut sum = [0.0; D];
            for e in (0..E).filter(|e| positions[s * E + e] != NOT_TAKEN) {
                let matrix = e * M * D..(e + 1) * M * D;
                let (w, u) = (&first[matrix.clone()], &second[matrix.clone()]);
                let hidden = reference(form, h, w, u, bias(e * M..(e + 1) * M));
                let hidden: Vec<f32> = hidden.iter().map(|&v| v as f32).collect();
                let b = bias(E * M + e * D..E * M + (e + 1) * D);
                let y = reference(ReferenceForm::Linear, &hidden, &down[matrix], &[], b);
                for (sum, y) in sum.iter_mut().zip(y) {
                    *sum += f64::from(gate[s * E + e]) * y;
                }
            }
            for (d, sum) in sum.iter().enumerate() {
                let gate = self.modulation[s / T * 6 * D + 5 * D + d];
                let branch = f64::from(gate) * sum;
                want.push((f64::from(self.x[s * D + d]) + branch) as f32);
            }
        }
        want
    }

    /// The banks on a device: first, second, down.
    fn banks(&self, gpu: &Gpu) -> [ExpertBank; 3] {
        let has_bias = !self.is_swiglu;
        let bank = |label: &str, rows: usize, columns: usize, values: &[f32], bias: &[f32]| {
            let shape = [E, rows, columns];
            let bank = ExpertBank::new(gpu, label, shape, has_bias, self.precision);
            for e in 0..E {
                let matrix = &values[e * rows * columns..(e + 1) * rows * columns];
                bank.write(gpu, e, &StoredRows::floats(columns, matrix));
                if has_bias {
                    bank.write_bias(gpu, e, &bias[e * rows..(e + 1) * rows]);
                }
            }
            bank
        };
        [
            bank("first", M, D, &self.first, &self.bias),
            bank("second", M, D, &self.second, &self.bias),
            bank("down", D, M, &self.down, &self.bias[E * M..]),
        ]
    }

    /// Routes and computes on a device; the number of dispatches after routing.
    fn check(&self, gpu: &Gpu) -> usize {
        let put = |shape: &[usize], values: &[f32]| Tensor::upload(gpu, "input", shape, values);
        let room = |shape: &[usize]| Tensor::empty(gpu, "output", shape);
        let [first, second, down] = self.banks(gpu);
        let h = put(&[S, D], &self.h);
        let x = put(&[B, T, D], &self.x);
        let (gate, need) = (room(&[S, E]), room(&[S, E]));
        let (counts, positions, chosen) = (room(&[E]), room(&[S, E]), room(&[E, S]));
        let mut tape = Tape::default();
        let score = RouteScore {
            choice: None,
            x: &h,
            gate_weight: &put(&[E, D], &spiky(E * D, 9, 0.2)),
            predictor: Some(Predictor {
                hidden: &h,
                weight: &put(&[E, D], &spiky(E * D, 10, 0.2)),
                bias: &put(&[E], &spiky(E, 11, 0.2)),
            }),
            gate: &gate,
            need: &need,
            scores: RecordedScores { to: &room(&[0]), first: 0 },
        };
        tape.push(gpu, "", &score);
        let select = RouteSelect {
            gate: &gate,
            need: &need,
            // Nobody, everybody, and some.
            thresholds: &put(&[E], &[0.5, 1.0, 0.0, 0.3, 0.7]),
            selection: self.selection,
            counts: &counts,
            positions: &positions,
            chosen: &chosen,
        };
        tape.push(gpu, "", &select);
        let experts = Experts {
            h: &h,
            assignments: Assignments {
                gate: &gate,
                counts: &counts,
                positions: &positions,
                chosen: &chosen,
            },
            first: &first,
            second: self.is_swiglu.then_some(&second),
            down: &down,
            hidden: &room(&[packed_rows(gpu.binding_limit, E, S, M), M]),
            output: &room(&[packed_rows(gpu.binding_limit, E, S, D), D]),
            modulation: &put(&[B, 6 * D], &self.modulation),
            gate_column: 5 * D,
            masks: Masks { to: &room(&[S]), first: 0 },
            x: &x,
            norm: None,
            next: &room(&[S, D]),
        };
        experts.record(gpu, &mut tape, "block");
        tape.run(gpu);

        let counts = read_now::<u32>(gpu, &counts).unwrap();
        assert_eq!((counts[1], counts[2]), (0, S as u32), "{counts:?}");
        assert!((1..S as u32).contains(&counts[0]), "{counts:?}");
        let positions = read_now::<u32>(gpu, &positions).unwrap();
        let want = self.oracle(&read_now(gpu, &gate).unwrap(), &positions);
        assert_close(&read_now(gpu, &x).unwrap(), &want, 2e-3, 1e-4);
        tape.len() - 2
    }
}

fn device(profile: Profile, binding_limit: Option<u64>) -> Gpu {
    let (poison, panic_on_error) = (true, true);
    let profile = Some(profile);
    Gpu::headless_with(GpuOptions {
        profile,
        binding_limit,
        poison,
        panic_on_error,
        ..GpuOptions::default()
    })
    .unwrap()
}

#[test]
fn a_routed_block_equals_all_experts_on_all_tokens_masked() {
    use WeightPrecision::{F16, F32, Int4, Int8};
    for profile in [Profile::Gpu, Profile::Software] {
        let gpu = device(profile, None);
        for selection in [Selection::Pool { pool: S }, Selection::Token] {
            assert_eq!(Block::new(false, selection).check(&gpu), 3, "dispatches");
        }
        for precision in [F16, F32, Int8, Int4] {
            Block { precision, ..Block::new(true, Selection::Token) }.check(&gpu);
            Block { precision, ..Block::new(false, Selection::Pool { pool: S }) }.check(&gpu);
        }
    }
}

#[test]
fn small_bindings_split_the_same_work_into_more_dispatches() {
    for profile in [Profile::Gpu, Profile::Software] {
        // Room for 3 of 5 experts, 25 of 225 hidden and 50 of 225 output rows.
        let gpu = device(profile, Some(1600));
        for is_swiglu in [false, true] {
            let dispatches = Block::new(is_swiglu, Selection::Pool { pool: S }).check(&gpu);
            // Output rows in 5 parts; hidden rows in 9, each with two parts of two banks.
            assert_eq!(dispatches, 5 + 9 * 4);
        }
    }
}
