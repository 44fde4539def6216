//! Linear layers with activation and residual fused: `y = epilogue(act(x·Wᵀ + b))`.

use bytemuck::{Pod, Zeroable};

use super::matrix::{Matrix, Part, WeightPrecision};
use crate::gpu::{Gpu, Kernel, Profile, Tape, Tensor};

/// The nonlinearity between the sum and the epilogue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `z`
    None,
    /// `z·σ(z)`
    Silu,
    /// `½z(1 + tanh(√(2/π)(z + 0.044715z³)))`
    Gelu,
}

/// Where the activated sum `v` goes.
#[derive(Clone, Copy, Debug)]
pub enum Epilogue<'a> {
    /// `y = v`
    Store,
    /// `y += gate ⊙ v`: the end of a residual branch.
    Gated {
        /// The modulation `[B, columns]` that holds the gate.
        modulation: &'a Tensor,
        /// The gate's first column.
        first: usize,
        /// `T`, rows of `y` that share a gate.
        tokens: usize,
    },
    /// `y[s] = v + table[s mod T]`: the position embedding, `[T, N]`.
    Table(&'a Tensor),
}

/// One linear layer.
pub struct Linear<'a> {
    /// `[S, K]`
    pub x: &'a Tensor,
    /// `[N, K]` and bias.
    pub weights: &'a Matrix,
    /// `[N, K]`: makes the layer the first half of a `SwiGLU`, `silu(W·x + b) ⊙ (U·x)`.
    pub up: Option<&'a Matrix>,
    /// Not used where `up` is given.
    pub activation: Activation,
    /// What to do with the result.
    pub epilogue: Epilogue<'a>,
    /// `[S, N]`
    pub y: &'a Tensor,
}

impl<'a> Linear<'a> {
    /// `y = x·Wᵀ + b`; the methods below change what happens to the sum.
    pub fn new(x: &'a Tensor, weights: &'a Matrix, y: &'a Tensor) -> Self {
        let (activation, epilogue) = (Activation::None, Epilogue::Store);
        Self { x, weights, up: None, activation, epilogue, y }
    }

    /// Applies `SiLU`.
    #[must_use]
    pub fn silu(self) -> Self {
        Self { activation: Activation::Silu, ..self }
    }

    /// Becomes the first layer of a feed-forward network: GELU, or `SwiGLU` where there is an up projection.
    #[must_use]
    pub fn gelu_or_swiglu(self, up: Option<&'a Matrix>) -> Self {
        Self { activation: Activation::Gelu, up, ..self }
    }

    /// Ends somewhere else than in a plain store.
    #[must_use]
    pub fn ending(self, epilogue: Epilogue<'a>) -> Self {
        Self { epilogue, ..self }
    }

    /// Records the layer with the kernel that suits the device, one dispatch for each part of the weights.
    ///
    /// # Panics
    /// When shapes do not fit: a bug.
    pub fn record(&self, gpu: &Gpu, tape: &mut Tape, scope: &str) {
        self.check();
        for call in self.calls() {
            match gpu.profile {
                Profile::Gpu => tape.push(gpu, scope, &call.tiled()),
                Profile::Software => tape.push(gpu, scope, &LinearSoftware(call)),
            }
        }
    }

    fn check(&self) {
        let Self { x, y, weights, .. } = self;
        assert_eq!(x.shape[1], weights.columns(), "{}: inputs", weights.bias.label);
        assert_eq!(*y.shape, [x.shape[0], weights.rows()], "{}: outputs", weights.bias.label);
        if let Some(up) = self.up {
            assert_eq!((up.rows(), up.columns()), (weights.rows(), weights.columns()), "SwiGLU");
            assert_eq!(up.precision(), weights.precision(), "SwiGLU");
        }
    }

    /// One call for each part.
    fn calls(&self) -> impl Iterator<Item = Call<'_>> {
        self.weights.parts.iter().enumerate().map(|(i, part)| Call {
            linear: self,
            part,
            up: &self.up.unwrap_or(self.weights).parts[i].weights,
        })
    }
}

/// A [`Linear`] over one part of its weights.
#[derive(Clone, Copy)]
struct Call<'a> {
    linear: &'a Linear<'a>,
    part: &'a Part,
    up: &'a Tensor,
}

/// The uniform of `shaders/shared/linear.wgsl`.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub(super) struct Params {
    rows: u32,
    columns: u32,
    quads: u32,
    first: u32,
    stride: u32,
    side_rows: u32,
    side_stride: u32,
    side_first: u32,
    activation: u32,
    epilogue: u32,
}

impl<'a> Call<'a> {
    fn params(self) -> Params {
        let (side_rows, side_stride, side_first) = match self.linear.epilogue {
            Epilogue::Store => (1, 0, 0),
            Epilogue::Gated { modulation, first, tokens } => (tokens, modulation.shape[1], first),
            Epilogue::Table(table) => (table.shape[0], table.shape[1], 0),
        };
        let activation = match (self.linear.up, self.linear.activation) {
            (Some(_), _) => 3,
            (None, Activation::None) => 0,
            (None, Activation::Silu) => 1,
            (None, Activation::Gelu) => 2,
        };
        let epilogue = match self.linear.epilogue {
            Epilogue::Store => 0,
            Epilogue::Gated { .. } => 1,
            Epilogue::Table(_) => 2,
        };
        Params {
            rows: self.rows() as u32,
            columns: self.part.rows.len() as u32,
            quads: (self.linear.weights.columns() / 4) as u32,
            first: self.part.rows.start as u32,
            stride: self.linear.weights.rows() as u32,
            side_rows: side_rows as u32,
            side_stride: side_stride as u32,
            side_first: side_first as u32,
            activation,
            epilogue,
        }
    }

    fn rows(self) -> usize {
        self.linear.x.shape[0]
    }

    fn tensors(self) -> Vec<&'a Tensor> {
        let bias = &self.linear.weights.bias;
        let side = match self.linear.epilogue {
            // Something must be bound.
            Epilogue::Store => bias,
            Epilogue::Gated { modulation: side, .. } | Epilogue::Table(side) => side,
        };
        vec![self.linear.x, &self.part.weights, self.up, bias, side, self.linear.y]
    }

    fn constants(self) -> Vec<(&'static str, f64)> {
        let half = self.linear.weights.precision() == WeightPrecision::F16;
        vec![("HALF_WEIGHTS", f64::from(u8::from(half)))]
    }

    /// Workgroups for tiles of `rows` rows and `columns` sums, of which `SwiGLU` pairs two.
    fn groups(self, rows: usize, columns: usize) -> [u32; 3] {
        let columns = if self.linear.up.is_some() { columns / 2 } else { columns };
        [self.part.rows.len().div_ceil(columns) as u32, self.rows().div_ceil(rows) as u32, 1]
    }

    /// Picks the tile: large ones read less, small ones keep more of a GPU busy.
    fn tiled(self) -> LinearTile<'a> {
        // Below about this many workgroups, a GPU with some dozens of cores has nothing to switch to.
        const ENOUGH_GROUPS: u32 = 128;
        let [x, y, _] = self.groups(64, 64);
        let lanes = if x * y >= ENOUGH_GROUPS { (16, 16) } else { (8, 8) };
        LinearTile { call: self, lanes }
    }
}

/// For GPUs: tiles in workgroup memory.
pub(super) struct LinearTile<'a> {
    call: Call<'a>,
    /// Lanes across columns and rows; each sums four by four.
    lanes: (usize, usize),
}

impl Kernel for LinearTile<'_> {
    const NAME: &'static str = "linear";
    const SOURCE: &'static str = concat!(
        include_str!("../../shaders/linear.wgsl"),
        include_str!("../../shaders/shared/linear.wgsl"),
        include_str!("../../shaders/shared/activation.wgsl"),
    );
    type Params = Params;

    fn params(&self) -> Params {
        self.call.params()
    }

    fn tensors(&self) -> Vec<&Tensor> {
        self.call.tensors()
    }

    fn constants(&self) -> Vec<(&'static str, f64)> {
        let (x, y) = self.lanes;
        let mut constants = self.call.constants();
        constants.extend([("LANES_X", x as f64), ("LANES_Y", y as f64)]);
        constants
    }

    fn groups(&self) -> [u32; 3] {
        self.call.groups(4 * self.lanes.1, 4 * self.lanes.0)
    }
}

/// For software adapters: registers only.
pub(super) struct LinearSoftware<'a>(Call<'a>);

impl Kernel for LinearSoftware<'_> {
    const NAME: &'static str = "linear_software";
    const SOURCE: &'static str = concat!(
        include_str!("../../shaders/linear_software.wgsl"),
        include_str!("../../shaders/shared/linear.wgsl"),
        include_str!("../../shaders/shared/activation.wgsl"),
    );
    type Params = Params;

    fn params(&self) -> Params {
        self.0.params()
    }

    fn tensors(&self) -> Vec<&Tensor> {
        self.0.tensors()
    }

    fn constants(&self) -> Vec<(&'static str, f64)> {
        self.0.constants()
    }

    fn groups(&self) -> [u32; 3] {
        /// `ROWS` in the shader.
        const ROWS: usize = 8;
        /// 16 for each of 8 lanes.
        const COLUMNS: usize = 128;
        self.0.groups(ROWS, COLUMNS)
    }
}

#[cfg(test)]
mod tests {
    use super::super::matrix::stored;
    use super::*;
    use crate::gpu::testing::{assert_close, gpu, poisoned, read, run, spiky, tensor};

    /// `act(x·Wᵀ + b)`, or `silu(x·Wᵀ + b) ⊙ (x·Uᵀ)`, before the epilogue.
    fn reference(
        x: &[f32],
        w: &[f32],
        up: Option<&[f32]>,
        bias: &[f32],
        k: usize,
        activation: Activation,
    ) -> Vec<f64> {
        let dot = |a: &[f32], b: &[f32]| -> f64 {
            a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
        };
        let silu = |z: f64| z / (1.0 + (-z).exp());
        let gelu = |z: f64| {
            let inner = (2.0 / std::f64::consts::PI).sqrt() * (z + 0.044_715 * z.powi(3));
            0.5 * z * (1.0 + inner.tanh())
        };
        let mut y = Vec::new();
        for row in x.chunks(k) {
            for (n, weights) in w.chunks(k).enumerate() {
                let z = dot(row, weights) + f64::from(bias[n]);
                y.push(match (up, activation) {
                    (Some(up), _) => silu(z) * dot(row, &up[n * k..(n + 1) * k]),
                    (None, Activation::None) => z,
                    (None, Activation::Silu) => silu(z),
                    (None, Activation::Gelu) => gelu(z),
                });
            }
        }
        y
    }

    fn matrix(gpu: &Gpu, w: &[f32], b: &[f32], k: usize, precision: WeightPrecision) -> Matrix {
        let matrix = Matrix::new(gpu, "test weights", b.len(), k, precision);
        matrix.write_rows(gpu, 0, k, w);
        matrix.write_bias(gpu, 0, b);
        matrix
    }

    /// The three ways to run a layer.
    fn run_variant(variant: usize, linear: &Linear) {
        linear.check();
        for call in linear.calls() {
            match variant {
                0 => run(&LinearTile { call, lanes: (8, 8) }),
                1 => run(&LinearTile { call, lanes: (16, 16) }),
                _ => run(&LinearSoftware(call)),
            }
        }
    }

    /// Sizes below, at and above the tiles of all variants.
    const SIZES: [(usize, usize, usize); 4] =
        [(1, 1, 4), (33, 65, 20), (64, 64, 16), (70, 131, 132)];

    #[test]
    fn matches_the_reference_in_every_variant_and_precision() {
        use Activation::{Gelu, None, Silu};
        use WeightPrecision::{F16, F32};
        for (precision, activation) in [(F32, None), (F16, None), (F16, Silu), (F16, Gelu)] {
            for (rows, n, k) in SIZES {
                let (x, bias) = (spiky(rows * k, 1, 1.0), spiky(n, 3, 1.0));
                let w: Vec<_> =
                    spiky(n * k, 2, 0.2).into_iter().map(|v| stored(v, precision)).collect();
                let weights = matrix(gpu(), &w, &bias, k, precision);
                let x_tensor = tensor(&[rows, k], &x);
                let want = reference(&x, &w, Option::None, &bias, k, activation);
                for variant in 0..3 {
                    let y = poisoned(&[rows, n]);
                    run_variant(
                        variant,
                        &Linear {
                            x: &x_tensor,
                            weights: &weights,
                            up: Option::None,
                            activation,
                            epilogue: Epilogue::Store,
                            y: &y,
                        },
                    );
                    close(&read(&y), &want);
                }
            }
        }
    }

    #[test]
    fn swiglu_multiplies_two_products() {
        for (rows, n, k) in SIZES {
            let x = spiky(rows * k, 4, 1.0);
            let w: Vec<_> = spiky(n * k, 5, 0.2);
            let u: Vec<_> = spiky(n * k, 6, 0.2);
            let zeros = vec![0.0; n];
            let weights = matrix(gpu(), &w, &zeros, k, WeightPrecision::F32);
            let up = matrix(gpu(), &u, &zeros, k, WeightPrecision::F32);
            let want = reference(&x, &w, Some(&u), &zeros, k, Activation::None);
            for variant in 0..3 {
                let y = poisoned(&[rows, n]);
                run_variant(
                    variant,
                    &Linear {
                        x: &tensor(&[rows, k], &x),
                        weights: &weights,
                        up: Some(&up),
                        activation: Activation::None,
                        epilogue: Epilogue::Store,
                        y: &y,
                    },
                );
                close(&read(&y), &want);
            }
        }
    }

    #[test]
    fn epilogues_gate_a_residual_and_add_a_table() {
        let (samples, tokens, n, k, first, stride) = (3, 11, 37, 24, 5, 50);
        let rows = samples * tokens;
        let (x, w) = (spiky(rows * k, 7, 1.0), spiky(n * k, 8, 0.3));
        let (bias, before) = (spiky(n, 9, 1.0), spiky(rows * n, 10, 1.0));
        let (gates, table) = (spiky(samples * stride, 11, 1.0), spiky(tokens * n, 12, 1.0));
        let weights = matrix(gpu(), &w, &bias, k, WeightPrecision::F32);
        let modulation = tensor(&[samples, stride], &gates);
        let positions = tensor(&[tokens, n], &table);
        let v = reference(&x, &w, None, &bias, k, Activation::None);
        let at = |i: usize| (i / n / tokens, i / n % tokens, i % n);
        let gated = |(i, v): (usize, &f64)| {
            let (b, _, c) = at(i);
            f64::from(before[i]) + f64::from(gates[b * stride + first + c]) * v
        };
        let shifted = |(i, v): (usize, &f64)| v + f64::from(table[at(i).1 * n + at(i).2]);
        let cases: [(Epilogue, Vec<f64>); 2] = [
            (
                Epilogue::Gated { modulation: &modulation, first, tokens },
                v.iter().enumerate().map(gated).collect(),
            ),
            (Epilogue::Table(&positions), v.iter().enumerate().map(shifted).collect()),
        ];
        for (epilogue, want) in cases {
            for variant in 0..3 {
                let y = tensor(&[rows, n], &before);
                run_variant(
                    variant,
                    &Linear {
                        x: &tensor(&[rows, k], &x),
                        weights: &weights,
                        up: None,
                        activation: Activation::None,
                        epilogue,
                        y: &y,
                    },
                );
                close(&read(&y), &want);
            }
        }
    }

    #[test]
    fn weights_above_the_binding_limit_are_split_without_a_trace() {
        let (rows, n, k) = (40, 50, 18);
        let (x, w, bias) = (spiky(rows * k, 13, 1.0), spiky(n * k, 14, 0.3), spiky(n, 15, 1.0));
        let padded: Vec<f32> =
            x.chunks(k).flat_map(|row| row.iter().copied().chain([0.0; 2])).collect();
        let x_tensor = tensor(&[rows, 20], &padded);
        // Rows of 40 bytes: 13 of them in each part, and 11 in the last.
        let limit = 13 * 40 + 39;
        let weights = Matrix::split(gpu(), "split", n, k, WeightPrecision::F16, limit);
        assert_eq!(
            weights.parts.iter().map(|p| p.rows.len()).collect::<Vec<_>>(),
            [13, 13, 13, 11]
        );
        // Filled in pieces that do not end where the parts do.
        for start in (0..n).step_by(7) {
            let end = n.min(start + 7);
            weights.write_rows(gpu(), start, k, &w[start * k..end * k]);
            weights.write_bias(gpu(), start, &bias[start..end]);
        }
        let w: Vec<_> = w.into_iter().map(|v| stored(v, WeightPrecision::F16)).collect();
        let want = reference(&x, &w, None, &bias, k, Activation::Gelu);
        for variant in 0..3 {
            let y = poisoned(&[rows, n]);
            run_variant(
                variant,
                &Linear {
                    x: &x_tensor,
                    weights: &weights,
                    up: None,
                    activation: Activation::Gelu,
                    epilogue: Epilogue::Store,
                    y: &y,
                },
            );
            close(&read(&y), &want);
        }
    }

    /// f32 sums of up to 132 terms of size 10·2 beside each other: rounding stays below 132·20·2⁻²⁴ ≈ 2e-4.
    fn close(got: &[f32], want: &[f64]) {
        let want: Vec<_> = want.iter().map(|&v| v as f32).collect();
        assert_close(got, &want, 5e-4, 1e-5);
    }
}
