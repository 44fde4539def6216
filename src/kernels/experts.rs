//! The experts of one block: their weights on the device, and the recording of all that happens
//! between routing and the residual stream, whatever has to be split to fit a binding.

use std::ops::Range;

use super::matrix::{WeightPrecision, pack};
use super::{CombineExperts, ExpertArgs, ExpertLinear, ExpertLinearSoftware, Form, Source};
use crate::gpu::{Gpu, Profile, Tape, Tensor};

/// The same layer of all experts: `[E, N, K]`, and biases `[E, N]`.
#[derive(Debug)]
pub struct ExpertBank {
    /// Runs of whole experts, as many as fit one binding.
    parts: Vec<(Range<usize>, Tensor)>,
    bias: Option<Tensor>,
    experts: usize,
    rows: usize,
    columns: usize,
    precision: WeightPrecision,
}

impl ExpertBank {
    /// An unfilled bank of `experts` matrices of `rows` (N) by `columns` (K, a multiple of 4).
    ///
    /// # Panics
    /// When the matrix of a single expert does not fit a binding.
    pub fn new(
        gpu: &Gpu,
        label: &str,
        [experts, rows, columns]: [usize; 3],
        has_bias: bool,
        precision: WeightPrecision,
    ) -> Self {
        assert!(columns.is_multiple_of(4), "{label}: K = {columns} is no multiple of 4");
        let words = match precision {
            WeightPrecision::F16 => columns / 2,
            WeightPrecision::F32 => columns,
        };
        let at_once = (gpu.binding_limit / (4 * rows * words) as u64).min(experts as u64) as usize;
        assert!(at_once > 0, "{label}: {rows} x {columns} weights do not fit a binding");
        let parts = (0..experts)
            .step_by(at_once)
            .map(|first| {
                let held = first..(first + at_once).min(experts);
                let tensor = Tensor::empty(gpu, label, &[held.len(), rows, words]);
                (held, tensor)
            })
            .collect();
        let bias = has_bias.then(|| Tensor::empty(gpu, format!("{label} bias"), &[experts, rows]));
        Self { parts, bias, experts, rows, columns, precision }
    }

    /// Fills one expert's matrix from `[N, K]` numbers.
    ///
    /// # Panics
    /// When there is no such expert, or the number of values is another.
    pub fn write(&self, gpu: &Gpu, expert: usize, values: &[f32]) {
        assert_eq!(values.len(), self.rows * self.columns, "expert {expert}");
        let words = pack(values, self.precision);
        let part = self.parts.iter().find(|(held, _)| held.contains(&expert));
        let (held, tensor) = part.unwrap_or_else(|| panic!("no expert {expert}"));
        tensor.write_at(gpu, (expert - held.start) * words.len(), &words);
    }

    /// Fills one expert's bias, `[N]`.
    ///
    /// # Panics
    /// When the bank has no biases, or does not have this one.
    pub fn write_bias(&self, gpu: &Gpu, expert: usize, values: &[f32]) {
        assert_eq!(values.len(), self.rows, "bias of expert {expert}");
        let bias = self.bias.as_ref().unwrap_or_else(|| panic!("experts without biases"));
        bias.write_at(gpu, expert * self.rows, values);
    }

    /// `E`, `N`, `K`.
    pub fn shape(&self) -> [usize; 3] {
        [self.experts, self.rows, self.columns]
    }

    /// Bytes on the device.
    pub fn bytes(&self) -> u64 {
        let weights = self.parts.iter().map(|(_, tensor)| tensor.bytes()).sum::<u64>();
        weights + self.bias.as_ref().map_or(0, Tensor::bytes)
    }

    /// Records this layer for some packed rows, one dispatch for each part of the bank.
    fn record(&self, gpu: &Gpu, tape: &mut Tape, scope: &str, call: &Call<'_>) {
        for (i, (held, weights)) in self.parts.iter().enumerate() {
            let bias = self.bias.as_ref();
            let form = match call.layer {
                Layer::Gelu => Form::Gelu(bias),
                Layer::SwiGlu(up) => Form::SwiGlu(&up.parts[i].1),
                Layer::Down => Form::Linear(bias),
            };
            let args = ExpertArgs {
                x: call.x,
                source: call.source,
                counts: call.routes.counts,
                chosen: call.routes.chosen,
                weights,
                experts: held.clone(),
                form,
                rows: call.rows.clone(),
                y: call.y,
                y_first: call.y_first,
            };
            match gpu.profile {
                Profile::Gpu => tape.push(gpu, scope, &ExpertLinear(args)),
                Profile::Software => tape.push(gpu, scope, &ExpertLinearSoftware(args)),
            }
        }
    }
}

/// What routing decided: outputs of [`RouteScore`](super::RouteScore) and
/// [`RouteSelect`](super::RouteSelect).
#[derive(Clone, Copy)]
pub struct Routes<'a> {
    /// Softmax over experts, `[S, E]`.
    pub gates: &'a Tensor,
    /// `n_e`, `[E]`.
    pub counts: &'a Tensor,
    /// Slot map, `[S, E]`.
    pub slots: &'a Tensor,
    /// Tokens of each expert, `[E, S]`.
    pub chosen: &'a Tensor,
}

/// The experts' networks on the tokens that they took, added to the residual stream:
/// `stream += gate ⊙ (Σ_e G[s,e]·FFN_e(x[s]) + shared[s])`.
pub struct Experts<'a> {
    /// Modulated tokens, `[S, D]`.
    pub x: &'a Tensor,
    /// Who takes which token.
    pub routes: Routes<'a>,
    /// `W₁` of the GELU form, or the gate projection of `SwiGLU`: `[E, M, D]`.
    pub first: &'a ExpertBank,
    /// The up projection of `SwiGLU`, `[E, M, D]`.
    pub second: Option<&'a ExpertBank>,
    /// `W₂`, or the down projection: `[E, D, M]`.
    pub down: &'a ExpertBank,
    /// Room for hidden rows, `[n, M]`. With fewer than `E·S` rows the work is done in parts.
    pub hidden: &'a Tensor,
    /// Room for output rows, `[n, D]`; likewise.
    pub output: &'a Tensor,
    /// All modulation vectors, `[B, columns]`.
    pub modulation: &'a Tensor,
    /// First column of this block's `gate_mlp`.
    pub gate_column: usize,
    /// Output of the shared expert, `[S, D]`.
    pub shared: Option<&'a Tensor>,
    /// In and out: `[B, T, D]`.
    pub stream: &'a Tensor,
}

enum Layer<'a> {
    Gelu,
    SwiGlu(&'a ExpertBank),
    Down,
}

struct Call<'a> {
    layer: Layer<'a>,
    routes: Routes<'a>,
    x: &'a Tensor,
    source: Source,
    rows: Range<usize>,
    y: &'a Tensor,
    y_first: usize,
}

/// Rows that a buffer for packed rows should have: the worst case `E·S`, or what one binding holds.
pub fn packed_rows(gpu: &Gpu, experts: usize, tokens: usize, columns: usize) -> usize {
    (experts * tokens).min((gpu.binding_limit / (4 * columns as u64)) as usize)
}

impl Experts<'_> {
    /// Records three dispatches where everything fits: up, down, combine.
    ///
    /// # Panics
    /// When shapes do not fit: a bug.
    pub fn record(&self, gpu: &Gpu, tape: &mut Tape, scope: &str) {
        let [experts, m, d] = self.first.shape();
        assert_eq!(self.down.shape(), [experts, d, m], "down projection");
        if let Some(second) = self.second {
            assert_eq!(second.shape(), self.first.shape(), "SwiGLU");
            assert_eq!(second.precision, self.first.precision, "SwiGLU");
        }
        let worst = experts * self.routes.gates.shape[0];
        let mut shared = self.shared;
        for rows in split(0..worst, self.output.shape[0]) {
            for part in split(rows.clone(), self.hidden.shape[0]) {
                self.layers(gpu, tape, scope, &part, rows.start);
            }
            let combine = CombineExperts {
                gates: self.routes.gates,
                slots: self.routes.slots,
                counts: self.routes.counts,
                y: self.output,
                rows,
                modulation: self.modulation,
                gate_column: self.gate_column,
                // Once, whatever the number of parts.
                shared: shared.take(),
                x: self.stream,
            };
            tape.push(gpu, scope, &combine);
        }
    }

    /// Both layers for the packed rows `rows`; `output` begins with packed row `first`.
    fn layers(&self, gpu: &Gpu, tape: &mut Tape, scope: &str, rows: &Range<usize>, first: usize) {
        let up = Call {
            layer: self.second.map_or(Layer::Gelu, Layer::SwiGlu),
            routes: self.routes,
            x: self.x,
            source: Source::Tokens,
            rows: rows.clone(),
            y: self.hidden,
            y_first: rows.start,
        };
        self.first.record(gpu, tape, scope, &up);
        let down = Call {
            layer: Layer::Down,
            routes: self.routes,
            x: self.hidden,
            source: Source::Rows(rows.start),
            rows: rows.clone(),
            y: self.output,
            y_first: first,
        };
        self.down.record(gpu, tape, scope, &down);
    }
}

/// Cuts a range into pieces of at most `size`.
fn split(range: Range<usize>, size: usize) -> impl Iterator<Item = Range<usize>> {
    let end = range.end;
    range.step_by(size.max(1)).map(move |first| first..(first + size).min(end))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::testing::{assert_close, spiky};
    use crate::gpu::{GpuOptions, read_now};
    use crate::kernels::expert_linear::{ReferenceForm, reference};
    use crate::kernels::{NO_SLOT, Predictor, RouteScore, RouteSelect, Selection};

    const B: usize = 3;
    const T: usize = 15;
    const S: usize = B * T;
    const E: usize = 5;
    const D: usize = 8;
    const M: usize = 16;

    /// What a routed block computes, and its inputs on the host.
    struct Block {
        is_swiglu: bool,
        has_shared: bool,
        selection: Selection,
        x: Vec<f32>,
        before: Vec<f32>,
        shared: Vec<f32>,
        modulation: Vec<f32>,
        first: Vec<f32>,
        second: Vec<f32>,
        down: Vec<f32>,
        bias: Vec<f32>,
    }

    impl Block {
        fn new(is_swiglu: bool, has_shared: bool, selection: Selection) -> Self {
            Self {
                is_swiglu,
                has_shared,
                selection,
                x: spiky(S * D, 1, 1.0),
                before: spiky(S * D, 2, 1.0),
                shared: spiky(S * D, 3, 1.0),
                modulation: spiky(B * 6 * D, 4, 0.5),
                first: spiky(E * M * D, 5, 0.3),
                second: spiky(E * M * D, 6, 0.3),
                down: spiky(E * D * M, 7, 0.3),
                bias: spiky(E * (M + D), 8, 0.3),
            }
        }

        /// Every expert on every token in f64, masked by who took what: slow and plainly right.
        fn oracle(&self, gates: &[f32], slots: &[u32]) -> Vec<f32> {
            let form = if self.is_swiglu { ReferenceForm::SwiGlu } else { ReferenceForm::Gelu };
            let bias = |range: Range<usize>| if self.is_swiglu { &[] } else { &self.bias[range] };
            let mut want = Vec::new();
            for (s, x) in self.x.chunks(D).enumerate() {
                let mut sum = [0.0; D];
                for e in (0..E).filter(|e| slots[s * E + e] != NO_SLOT) {
                    let matrix = e * M * D..(e + 1) * M * D;
                    let (w, u) = (&self.first[matrix.clone()], &self.second[matrix.clone()]);
                    let h = reference(form, x, w, u, bias(e * M..(e + 1) * M));
                    let h: Vec<f32> = h.iter().map(|&v| v as f32).collect();
                    let b = bias(E * M + e * D..E * M + (e + 1) * D);
                    let y = reference(ReferenceForm::Linear, &h, &self.down[matrix], &[], b);
                    for (sum, y) in sum.iter_mut().zip(y) {
                        *sum += f64::from(gates[s * E + e]) * y;
                    }
                }
                for (d, sum) in sum.iter().enumerate() {
                    let shared = if self.has_shared { self.shared[s * D + d] } else { 0.0 };
                    let gate = self.modulation[s / T * 6 * D + 5 * D + d];
                    let branch = f64::from(gate) * (sum + f64::from(shared));
                    want.push((f64::from(self.before[s * D + d]) + branch) as f32);
                }
            }
            want
        }

        /// The banks on a device: first, second, down.
        fn banks(&self, gpu: &Gpu) -> [ExpertBank; 3] {
            let has_bias = !self.is_swiglu;
            let bank = |label: &str, rows: usize, columns: usize, values: &[f32], bias: &[f32]| {
                let shape = [E, rows, columns];
                let bank = ExpertBank::new(gpu, label, shape, has_bias, WeightPrecision::F32);
                for e in 0..E {
                    bank.write(gpu, e, &values[e * rows * columns..(e + 1) * rows * columns]);
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
            let x = put(&[S, D], &self.x);
            let stream = put(&[B, T, D], &self.before);
            let shared = put(&[S, D], &self.shared);
            let (gates, capacities) = (room(&[S, E]), room(&[S, E]));
            let (counts, slots, chosen) = (room(&[E]), room(&[S, E]), room(&[E, S]));
            let mut tape = Tape::default();
            let score = RouteScore {
                x: &x,
                gate_weight: &put(&[E, D], &spiky(E * D, 9, 0.2)),
                predictor: Some(Predictor {
                    hidden: &x,
                    weight: &put(&[E, D], &spiky(E * D, 10, 0.2)),
                    bias: &put(&[E], &spiky(E, 11, 0.2)),
                }),
                gates: &gates,
                capacities: &capacities,
            };
            tape.push(gpu, "", &score);
            let select = RouteSelect {
                gates: &gates,
                capacities: &capacities,
                // Nobody, everybody, and some.
                thresholds: &put(&[E], &[0.5, 1.0, 0.0, 0.3, 0.7]),
                selection: self.selection,
                counts: &counts,
                slots: &slots,
                chosen: &chosen,
            };
            tape.push(gpu, "", &select);
            let experts = Experts {
                x: &x,
                routes: Routes { gates: &gates, counts: &counts, slots: &slots, chosen: &chosen },
                first: &first,
                second: self.is_swiglu.then_some(&second),
                down: &down,
                hidden: &room(&[packed_rows(gpu, E, S, M), M]),
                output: &room(&[packed_rows(gpu, E, S, D), D]),
                modulation: &put(&[B, 6 * D], &self.modulation),
                gate_column: 5 * D,
                shared: self.has_shared.then_some(&shared),
                stream: &stream,
            };
            experts.record(gpu, &mut tape, "block");
            tape.run(gpu);

            let counts = read_now::<u32>(gpu, &counts).unwrap();
            assert_eq!((counts[1], counts[2]), (0, S as u32), "{counts:?}");
            assert!((1..S as u32).contains(&counts[0]), "{counts:?}");
            let slots = read_now::<u32>(gpu, &slots).unwrap();
            let want = self.oracle(&read_now(gpu, &gates).unwrap(), &slots);
            assert_close(&read_now(gpu, &stream).unwrap(), &want, 2e-3, 1e-4);
            tape.len() - 2
        }
    }

    fn device(profile: Profile, binding_limit: Option<u64>) -> Gpu {
        let (poison, panic_on_error) = (true, true);
        let profile = Some(profile);
        Gpu::headless_with(GpuOptions { profile, binding_limit, poison, panic_on_error }).unwrap()
    }

    #[test]
    fn a_routed_block_equals_all_experts_on_all_tokens_masked() {
        for profile in [Profile::Gpu, Profile::Software] {
            let gpu = device(profile, None);
            for selection in [Selection::Pool, Selection::Token] {
                assert_eq!(Block::new(false, false, selection).check(&gpu), 3, "dispatches");
            }
            Block::new(true, true, Selection::Token).check(&gpu);
        }
    }

    #[test]
    fn small_bindings_split_the_same_work_into_more_dispatches() {
        for profile in [Profile::Gpu, Profile::Software] {
            // Room for 3 of 5 experts, 25 of 225 hidden and 50 of 225 output rows.
            let gpu = device(profile, Some(1600));
            for (is_swiglu, has_shared) in [(false, true), (true, false)] {
                let dispatches = Block::new(is_swiglu, has_shared, Selection::Pool).check(&gpu);
                // Output rows in 5 parts; hidden rows in 9, each with two parts of two banks.
                assert_eq!(dispatches, 5 + 9 * 4);
            }
        }
    }
}
