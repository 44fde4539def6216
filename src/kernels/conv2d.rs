//! Convolutions over images whose channels lie in quads, `[C/4, images, height, width, 4]`, on parts of their
//! channels, so that a layer works on feature maps that are spread over several buffers.

use std::ops::Range;

use bytemuck::{Pod, Zeroable};

use super::weights::{WeightPrecision, pack_rows};
use crate::gpu::{Gpu, Kernel, Profile, Shader, Tensor};

/// Weights and bias of one convolution on the device.
#[derive(Debug)]
pub struct ConvWeights {
    /// `[C_in/4, k·k, 4, C_out]`, in words of one f32 or two f16.
    weights: Tensor,
    /// `[C_out]`; zeros where the layer has no bias.
    bias: Tensor,
    /// `k`, 1 or 3.
    pub size: usize,
    /// `C_in`, rounded up to four, in quads.
    pub in_quads: usize,
    /// `C_out`, rounded up to four, in quads.
    pub out_quads: usize,
    precision: WeightPrecision,
}

impl ConvWeights {
    /// Uploads `values`, `[C_out, C_in, k, k]`, and a bias `[C_out]` where there is one.
    ///
    /// # Panics
    /// When the numbers do not fit the sizes, or `k` is neither 1 nor 3.
    pub fn upload(
        gpu: &Gpu,
        label: &str,
        [outputs, inputs, size]: [usize; 3],
        values: &[f32],
        bias: Option<&[f32]>,
        precision: WeightPrecision,
    ) -> Self {
        assert!(size == 1 || size == 3, "{label}: kernels of {size}");
        assert_eq!(values.len(), outputs * inputs * size * size, "{label}");
        let (in_quads, out_quads) = (inputs.div_ceil(4), outputs.div_ceil(4));
        let taps = size * size;
        let mut packed = vec![0.0; in_quads * taps * 16 * out_quads];
        for (row, kernel) in values.chunks_exact(taps).enumerate() {
            let (o, c) = (row / inputs, row % inputs);
            for (tap, &w) in kernel.iter().enumerate() {
                packed[((c / 4 * taps + tap) * 4 + c % 4) * 4 * out_quads + o] = w;
            }
        }
        let mut padded = vec![0.0; 4 * out_quads];
        if let Some(bias) = bias {
            padded[..outputs].copy_from_slice(bias);
        }
        // Integers are for rows of large matrices.
        let precision = precision.max(WeightPrecision::F16);
        let words = pack_rows(&packed, 4, precision);
        Self {
            weights: Tensor::upload(gpu, label, &[words.len()], &words),
            bias: Tensor::upload(gpu, format!("{label} bias"), &[padded.len()], &padded),
            size,
            in_quads,
            out_quads,
            precision,
        }
    }

    /// What the weights and the bias of a layer take on a device in f32, in bytes.
    pub fn bytes_of([outputs, inputs, size]: [usize; 3]) -> [u64; 2] {
        let (inputs, outputs) = (inputs.next_multiple_of(4), outputs.next_multiple_of(4));
        [inputs * size * size * outputs, outputs].map(|count| 4 * count as u64)
    }

    /// Bytes on the device.
    pub fn bytes(&self) -> u64 {
        self.weights.bytes() + self.bias.bytes()
    }
}

/// The nonlinearity after a convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `z`
    None,
    /// `max(z, 0)`
    Relu,
    /// `z·σ(z)`
    Silu,
}

/// A convolution with zero border and stride 1, from some of a layer's inputs to some of its outputs.
#[derive(Clone, Copy)]
pub struct Conv2d<'a> {
    /// `[inputs, images, height, width, 4]` at the front of the tensor.
    pub x: &'a Tensor,
    /// The layer.
    pub weights: &'a ConvWeights,
    /// `[…, images, height, width, 4]`: outputs go to quads `y_first..`.
    pub y: &'a Tensor,
    /// Number of images.
    pub images: usize,
    /// Height and width of `y`.
    pub size: [usize; 2],
    /// Whether every pixel of `x` stands for 2 × 2, so that `x` has half of `y`'s size.
    pub enlarge: bool,
    /// First and one past the last quad of the layer's inputs that `x` holds.
    pub inputs: (usize, usize),
    /// First and one past the last quad of the layer's outputs to compute.
    pub outputs: (usize, usize),
    /// Where they begin in `y`.
    pub y_first: usize,
    /// Whether the bias is added: in one dispatch of several over the same outputs.
    pub bias: bool,
    /// Whether the result is added to `y`.
    pub add: bool,
    /// What is applied to the result.
    pub activation: Activation,
}

/// The uniform of `shaders/shared/conv2d.wgsl`.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub struct Params {
    width: u32,
    height: u32,
    in_width: u32,
    in_height: u32,
    enlarge: u32,
    in_quads: u32,
    weight_first: u32,
    out_quads: u32,
    out_first: u32,
    out_total: u32,
    y_first: u32,
    mode: u32,
    images: u32,
}

impl Kernel for Conv2d<'_> {
    /// Tiles in workgroup memory.
    const SHADER: Shader = shader!(
        "conv2d",
        shared: ["conv2d", "activation"],
        consts: [COLUMNS = TILE.columns, ROWS = TILE.rows, OUT_QUADS = TILE.quads]
    );
    /// Registers only.
    const SOFTWARE: Option<Shader> = Some(shader!(
        "conv2d_software",
        shared: ["conv2d", "activation"],
        sizes: [LANES = SOFTWARE_TILE.columns],
        consts: [ROWS = SOFTWARE_TILE.rows, OUT_QUADS = SOFTWARE_TILE.quads]
    ));
    type Params = Params;

    fn params(&self) -> Params {
        let Self { weights: w, size: [height, width], images, inputs, outputs, .. } = *self;
        let shrink = usize::from(self.enlarge);
        assert!(!self.enlarge || (height.is_multiple_of(2) && width.is_multiple_of(2)), "odd size");
        let (in_height, in_width) = (height >> shrink, width >> shrink);
        let (in_quads, out_quads) = (inputs.1 - inputs.0, outputs.1 - outputs.0);
        assert!(in_quads > 0 && inputs.1 <= w.in_quads, "inputs {inputs:?} of {}", w.in_quads);
        assert!(out_quads > 0 && outputs.1 <= w.out_quads, "outputs {outputs:?}");
        let needed = 4 * in_quads * images * in_height * in_width;
        assert!(self.x.len() >= needed, "x {:?}", self.x.shape);
        let end = 4 * (self.y_first + out_quads) * images * height * width;
        assert!(self.y.len() >= end, "y {:?}", self.y.shape);
        let bit = |is_set: bool, bit: u32| if is_set { bit } else { 0 };
        Params {
            width: width as u32,
            height: height as u32,
            in_width: in_width as u32,
            in_height: in_height as u32,
            enlarge: shrink as u32,
            in_quads: in_quads as u32,
            weight_first: inputs.0 as u32,
            out_quads: out_quads as u32,
            out_first: outputs.0 as u32,
            out_total: w.out_quads as u32,
            y_first: self.y_first as u32,
            mode: bit(self.bias, 1)
                + bit(self.add, 2)
                + bit(self.activation == Activation::Relu, 4)
                + bit(self.activation == Activation::Silu, 8),
            images: images as u32,
        }
    }

    fn tensors(&self) -> Vec<&Tensor> {
        vec![self.x, &self.weights.weights, &self.weights.bias, self.y]
    }

    fn constants(&self, _: Profile) -> Vec<(&'static str, f64)> {
        let half = self.weights.precision == WeightPrecision::F16;
        vec![("SIZE", self.weights.size as f64), ("HALF_WEIGHTS", f64::from(u8::from(half)))]
    }

    fn groups(&self, profile: Profile) -> [u32; 3] {
        let tile = match profile {
            Profile::Gpu => TILE,
            Profile::Software => SOFTWARE_TILE,
        };
        let [height, width] = self.size;
        let outputs = self.outputs.1 - self.outputs.0;
        let groups = [
            width.div_ceil(tile.columns),
            self.images * height.div_ceil(tile.rows),
            outputs.div_ceil(tile.quads),
        ];
        groups.map(|n| n as u32)
    }
}

/// What a workgroup owns: pixels, by quads of outputs.
struct Tile {
    columns: usize,
    rows: usize,
    quads: usize,
}

const TILE: Tile = Tile { columns: 16, rows: 8, quads: 8 };

/// On software adapters a lane has a column of pixels.
const SOFTWARE_TILE: Tile = Tile { columns: 8, rows: 8, quads: 4 };

/// Cuts quads of outputs so that a dispatch stays below about `most` multiply-adds: a frame of a user
/// interface, or a driver's patience, should not depend on how large a layer is.
pub fn output_chunks(
    weights: &ConvWeights,
    inputs: usize,
    pixels: usize,
    outputs: Range<usize>,
    most: u64,
) -> impl Iterator<Item = (usize, usize)> {
    /// What a workgroup owns.
    const WHOLE: usize = TILE.quads;
    // More than 32 bits hold, which is what a browser has.
    let each = (16 * weights.size * weights.size * inputs) as u64 * pixels as u64;
    let affordable =
        (most / each.max(1)).min(weights.out_quads.next_multiple_of(WHOLE) as u64) as usize;
    let quads = (affordable / WHOLE * WHOLE).max(WHOLE);
    let end = outputs.end;
    outputs.step_by(quads).map(move |first| (first, end.min(first + quads)))
}

/// Inputs of [`reference()`], as PyTorch lays them out.
#[cfg(test)]
#[derive(Clone, Copy)]
pub(crate) struct Inputs<'a> {
    /// `[C_in, height, width]`
    pub x: &'a [f32],
    /// `[C_out, C_in, k, k]`
    pub weights: &'a [f32],
    /// `[C_out]`
    pub bias: &'a [f32],
    /// `k`
    pub size: usize,
    /// Height and width of `x`.
    pub from: [usize; 2],
    /// Whether `x` is enlarged first.
    pub enlarge: bool,
}

/// The convolution on the processor, in f64: `[C_out, height, width]` of the (enlarged) image.
#[cfg(test)]
pub(crate) fn reference(i: Inputs<'_>) -> Vec<f64> {
    let Inputs { size: k, from: [from_height, from_width], .. } = i;
    let shift = usize::from(i.enlarge);
    let (height, width) = (from_height << shift, from_width << shift);
    let inputs = i.x.len() / (from_height * from_width);
    let mut y = Vec::new();
    for (o, bias) in i.bias.iter().enumerate() {
        for (row, column) in (0..height).flat_map(|r| (0..width).map(move |c| (r, c))) {
            let mut sum = f64::from(*bias);
            for (c, tap) in (0..inputs).flat_map(|c| (0..k * k).map(move |t| (c, t))) {
                // Shifted by the border, so that nothing is negative.
                let (py, px) = (row + tap / k, column + tap % k);
                let halo = k / 2;
                if (halo..height + halo).contains(&py) && (halo..width + halo).contains(&px) {
                    let (sy, sx) = ((py - halo) >> shift, (px - halo) >> shift);
                    let x = i.x[(c * from_height + sy) * from_width + sx];
                    sum += f64::from(x) * f64::from(i.weights[(o * inputs + c) * k * k + tap]);
                }
            }
            y.push(sum);
        }
    }
    y
}

#[cfg(test)]
#[path = "conv2d_tests.rs"]
mod tests;
