//! Linear layers with activation and residual fused: `y = epilogue(act(x·Wᵀ + b))`.

use bytemuck::{Pod, Zeroable};

use super::matrix::{Matrix, Part};
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
    /// `y += v`: the end of a residual branch without a gate.
    Add,
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
            assert!(up.layout().eq(weights.layout()), "SwiGLU");
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
            Epilogue::Store | Epilogue::Add => (1, 0, 0),
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
            Epilogue::Add => 3,
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
            Epilogue::Store | Epilogue::Add => bias,
            Epilogue::Gated { modulation: side, .. } | Epilogue::Table(side) => side,
        };
        vec![self.linear.x, &self.part.weights, self.up, bias, side, self.linear.y]
    }

    fn constants(self) -> Vec<(&'static str, f64)> {
        vec![self.part.precision.constant()]
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
        include_str!("../../shaders/shared/weights.wgsl"),
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
        include_str!("../../shaders/shared/weights.wgsl"),
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
#[path = "linear_tests.rs"]
mod tests;
