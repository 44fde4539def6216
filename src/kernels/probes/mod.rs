//! Whether the kernels compute what they should on a device: each on small fixed inputs, compared with answers that were
//! computed once in f64 and are part of the program.
//!
//! Drivers that compute wrong numbers are the most frequent cause of wrong images, and nothing else notices them. All
//! probes are one submission; what takes time is the compilation of their pipelines. So their constants are those of the
//! shipped models, where pipelines are needed in any case.

mod decoder;
mod detail;
mod experts;
mod latents;
mod model;
mod numbers;
mod routing;

use std::ops::Range;

use half::f16;

use super::{Matrix, WeightPrecision};
use crate::checkpoint::{StoredRows, StoredValues};
use crate::gpu::{Gpu, GpuError, Kernel, Pod, Readback, Tape, Tensor};
use crate::model::{Config, INT4_GROUP, Objective, Router};
use numbers::integers;

/// Kernels that are used together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// Those of every model.
    Model,
    /// Norms of queries and keys.
    HeadNorm,
    /// Rotary positions.
    Rotation,
    /// Tokens that carry the labels.
    Context,
    /// The choice of a sigmoid router.
    SigmoidRouter,
    /// The router by prototypes.
    PrototypeRouter,
    /// The steps of DDPM and DDIM.
    Ddpm,
    /// The detail head.
    Detail,
    /// Text encoders.
    Text,
    /// Image decoders.
    Decoder,
}

/// Which kernels to look at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kernels {
    /// What they belong to.
    pub families: Vec<Family>,
    /// Formats of large matrices.
    pub precisions: Vec<WeightPrecision>,
}

impl Kernels {
    /// All of them.
    pub fn all() -> Self {
        use Family::{Context, Ddpm, Decoder, Detail, HeadNorm, Model, Rotation, Text};
        use Family::{PrototypeRouter, SigmoidRouter};
        use WeightPrecision::{F16, F32, Int4, Int8};
        let routers = [SigmoidRouter, PrototypeRouter];
        let families = [Model, HeadNorm, Rotation, Context].into_iter().chain(routers);
        let families = families.chain([Ddpm, Detail, Text, Decoder]).collect();
        Self { families, precisions: vec![F16, F32, Int8, Int4] }
    }

    /// Those that a model needs, with large matrices in these formats.
    pub fn of(config: &Config, precisions: Vec<WeightPrecision>) -> Self {
        let also = [
            (Family::HeadNorm, config.qk_norm),
            (Family::Rotation, config.rope),
            (Family::Context, config.context.is_some()),
            (Family::SigmoidRouter, matches!(config.router, Router::Sigmoid { .. })),
            (Family::PrototypeRouter, matches!(config.router, Router::Prototypes { .. })),
            (Family::Ddpm, config.objective == Objective::Ddpm),
            (Family::Detail, config.detail_channels > 0),
            (Family::Text, config.text.is_some()),
        ];
        let also = also.into_iter().filter(|(_, is_needed)| *is_needed);
        let families = [Family::Model].into_iter().chain(also.map(|(family, _)| family)).collect();
        Self { families, precisions }
    }

    /// These and others.
    #[must_use]
    pub fn and(mut self, others: Self) -> Self {
        let is_new = |family: &Family| !self.families.contains(family);
        let families: Vec<_> = others.families.into_iter().filter(is_new).collect();
        self.families.extend(families);
        let is_new = |precision: &WeightPrecision| !self.precisions.contains(precision);
        let precisions: Vec<_> = others.precisions.into_iter().filter(is_new).collect();
        self.precisions.extend(precisions);
        self
    }

    fn record(&self, bench: &mut Bench) {
        for family in &self.families {
            match family {
                Family::Model => {
                    model::record(bench, &self.precisions);
                    routing::record(bench);
                }
                Family::HeadNorm => model::head_norm(bench),
                Family::Rotation => model::rotate_heads(bench),
                Family::Context => model::embed_context(bench),
                Family::SigmoidRouter => routing::sigmoid_router(bench),
                Family::PrototypeRouter => routing::prototype_router(bench),
                Family::Ddpm => latents::denoise(bench),
                Family::Detail => detail::record(bench),
                Family::Text => model::embed_tokens(bench),
                Family::Decoder => decoder::record(bench),
            }
        }
    }
}

/// What came of one kernel.
#[derive(Clone, Debug, PartialEq)]
pub struct Finding {
    /// Its name, and the format of the weights where there are several.
    pub kernel: String,
    /// The largest difference, as a part of the largest answer; infinite where a number is not finite. For integers and
    /// copies the part of them that differs.
    pub error: f32,
    /// The largest difference that passes.
    pub allowed: f32,
}

impl Finding {
    /// Whether the kernel computes what it should.
    pub fn passes(&self) -> bool {
        self.error <= self.allowed
    }
}

/// Rounding in f32 stays below 1e-5 here, and exponentials of GPUs may add some 1e-6. Sums in f16 would be off by 1e-3.
const TOLERANCE: f32 = 2e-4;

/// Answers for one output are at most about this many: larger outputs are compared at every n-th place.
const MOST_ANSWERS: usize = 80;

/// An output of a kernel.
struct Output {
    /// Under which its answers are found.
    name: &'static str,
    kernel: String,
    tensor: Tensor,
    /// Elements that count.
    range: Range<usize>,
    is_exact: bool,
}

impl Output {
    /// Elements that are compared: all, or every n-th with an odd n, so that it meets each lane.
    fn places(range: Range<usize>) -> impl Iterator<Item = usize> {
        let step = range.len().div_ceil(MOST_ANSWERS) | 1;
        range.step_by(step)
    }

    fn compare(&self, words: &[u32]) -> Finding {
        let answers = answers_of(self.name);
        let got: Vec<u32> = Self::places(self.range.clone()).map(|i| words[i]).collect();
        let (kernel, is_complete) = (self.kernel.clone(), got.len() == answers.len());
        let pairs = got.into_iter().zip(answers);
        if self.is_exact || !is_complete {
            let differ = pairs.clone().filter(|(got, want)| got != want).count();
            let part = if is_complete { differ as f32 / pairs.len() as f32 } else { 1.0 };
            return Finding { kernel, error: part, allowed: 0.0 };
        }
        let pairs = pairs.map(|(got, want)| (f32::from_bits(got), f32::from_bits(want)));
        let largest = pairs.clone().fold(f32::MIN_POSITIVE, |most, (_, want)| most.max(want.abs()));
        // NaN is no less than anything.
        let worst = pairs.map(|(got, want)| (got - want).abs());
        let worst = worst.fold(0.0_f32, |most, error| if error <= most { most } else { error });
        let error = if worst.is_finite() { worst / largest } else { f32::INFINITY };
        Finding { kernel, error, allowed: TOLERANCE }
    }
}

/// Blocks of a name's length and the name, the number of answers, and the answers; little-endian.
#[cfg(not(test))]
fn answers() -> &'static [u8] {
    include_bytes!("answers.bin")
}

/// In tests as they are now, so that answers that were just written count.
#[cfg(test)]
fn answers() -> &'static [u8] {
    static ANSWERS: std::sync::LazyLock<Vec<u8>> = std::sync::LazyLock::new(|| {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/kernels/probes/answers.bin");
        std::fs::read(path).expect("the embedded answers")
    });
    &ANSWERS
}

/// The embedded answers for an output: words of f32 or of integers.
fn answers_of(name: &str) -> Vec<u32> {
    let mut rest = answers();
    while let Some((&length, after)) = rest.split_first() {
        let Some((found, after)) = after.split_at_checked(length.into()) else { break };
        let Some((count, after)) = after.split_first_chunk() else { break };
        let bytes = 4 * u32::from_le_bytes(*count) as usize;
        let Some((words, after)) = after.split_at_checked(bytes) else { break };
        if found == name.as_bytes() {
            return words.as_chunks().0.iter().map(|&word| u32::from_le_bytes(word)).collect();
        }
        rest = after;
    }
    Vec::new()
}

/// Records calls of kernels, and what to look at afterwards.
struct Bench<'a> {
    gpu: &'a Gpu,
    tape: Tape<&'static str>,
    outputs: Vec<Output>,
}

impl<'a> Bench<'a> {
    fn new(gpu: &'a Gpu) -> Self {
        Self { gpu, tape: Tape::default(), outputs: Vec::new() }
    }

    fn tensor<T: Pod>(&self, shape: &[usize], values: &[T]) -> Tensor {
        Tensor::upload(self.gpu, "probe", shape, values)
    }

    /// To be written; full of NaN, so that a kernel that does nothing is noticed.
    fn output(&self, shape: &[usize]) -> Tensor {
        self.tensor(shape, &vec![f32::NAN; shape.iter().product()])
    }

    /// A matrix of `rows` by `columns` of small numbers that every format holds exactly, and a bias.
    fn matrix(
        &self,
        [rows, columns]: [usize; 2],
        seed: u32,
        precision: WeightPrecision,
        bias: &[f32],
    ) -> Matrix {
        let matrix = Matrix::new(self.gpu, "probe", rows, columns, precision);
        let exact = Exact::new(rows, columns, seed);
        matrix.write_rows(self.gpu, 0, &exact.rows(precision));
        matrix.write_bias(self.gpu, 0, bias);
        matrix
    }

    fn push<K: Kernel>(&mut self, kernel: &K) {
        self.tape.push(self.gpu, "probe", kernel);
    }

    /// Compares an output within the rounding of f32.
    fn expect(&mut self, name: &'static str, kernel: impl Into<String>, tensor: &Tensor) {
        self.add(name, kernel.into(), tensor, 0..tensor.len(), false);
    }

    /// Compares an output bit by bit.
    fn expect_exactly(&mut self, name: &'static str, kernel: impl Into<String>, tensor: &Tensor) {
        self.add(name, kernel.into(), tensor, 0..tensor.len(), true);
    }

    fn add(
        &mut self,
        name: &'static str,
        kernel: String,
        tensor: &Tensor,
        range: Range<usize>,
        is_exact: bool,
    ) {
        self.outputs.push(Output { name, kernel, tensor: tensor.clone(), range, is_exact });
    }
}

/// Factor of the weights of probes.
const STEP: f32 = 1.0 / 16.0;

/// Weights of -7 to 7 sixteenths, as each format stores them.
struct Exact {
    columns: usize,
    numbers: Vec<i8>,
    nibbles: Vec<u8>,
}

impl Exact {
    fn new(rows: usize, columns: usize, seed: u32) -> Self {
        let numbers = integers(rows * columns, seed);
        let pair = |pair: &[i8]| {
            let low = pair[0].cast_unsigned() & 15;
            let high = pair.get(1).map_or(0, |high| high.cast_unsigned() & 15);
            high << 4 | low
        };
        let nibbles = numbers.chunks(columns).flat_map(|row| row.chunks(2).map(pair)).collect();
        Self { columns, numbers, nibbles }
    }

    fn values(&self) -> Vec<f32> {
        self.numbers.iter().map(|&n| f32::from(n) * STEP).collect()
    }

    fn rows(&self, precision: WeightPrecision) -> StoredRows<'_> {
        let rows = self.numbers.len() / self.columns;
        let values = match precision {
            WeightPrecision::F16 | WeightPrecision::F32 => {
                return StoredRows::floats(self.columns, self.values());
            }
            WeightPrecision::Int8 => StoredValues::Int8 {
                numbers: bytemuck::cast_slice(&self.numbers),
                scales: vec![STEP; rows].into(),
            },
            WeightPrecision::Int4 => StoredValues::Int4 {
                numbers: &self.nibbles,
                scales: vec![f16::from_f32(STEP); rows * self.columns.div_ceil(INT4_GROUP)].into(),
            },
        };
        StoredRows::new(self.columns, values)
    }
}

/// Runs the probes of some kernels in the variant of the device, as one submission.
///
/// # Errors
/// When the device refuses a kernel, is lost, or does not answer.
pub async fn check(gpu: &Gpu, kernels: &Kernels) -> Result<Vec<Finding>, GpuError> {
    let stand_in = gpu.rehearsal();
    kernels.record(&mut Bench::new(&stand_in));
    gpu.compile(&stand_in.wanted());
    let mut bench = Bench::new(gpu);
    kernels.record(&mut bench);
    let mut encoder = gpu.encoder();
    bench.tape.encode(&mut encoder, 0..bench.tape.len());
    let outputs: Vec<_> = bench.outputs.iter().map(|output| &output.tensor).collect();
    let readback = Readback::schedule(gpu, &mut encoder, &outputs);
    gpu.queue.submit([encoder.finish()]);
    let arrived = readback.arrived(gpu).await?;
    let words = arrived.iter().map(|bytes| bytemuck::pod_collect_to_vec::<u8, u32>(bytes));
    Ok(bench.outputs.iter().zip(words).map(|(output, words)| output.compare(&words)).collect())
}

#[cfg(test)]
mod tests;
