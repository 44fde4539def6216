//! `diffmoe bench --micro`: single kernels in shapes of real models, for what the time of a step does not tell: what a
//! dispatch costs, how near products come to a device's arithmetic, and what ragged experts cost beside a dense product.

use std::time::Instant;

use diffmoe::checkpoint::StoredRows;
use diffmoe::gpu::{Gpu, GpuError, GpuOptions, Profile, Tape, Tensor, Tile, Tiling};
use diffmoe::kernels::{
    Attention, ExpertLinear, Form, Linear, Matrix, Softmax, Source, WeightPrecision, pack_rows,
};
use diffmoe::wgpu;
use serde::Serialize;

use super::{Spread, milliseconds};

/// Dispatches that each wait for the one before.
const DISPATCHES: usize = 2000;
/// Rows, inputs and outputs of products: of `emoji`, of S at 256 tokens, of L, and the size that vendors quote.
const PRODUCTS: [[usize; 3]; 5] =
    [[256, 192, 576], [256, 768, 192], [1024, 384, 1536], [1024, 1024, 4096], [4096, 4096, 4096]];
const PRECISIONS: [WeightPrecision; 4] =
    [WeightPrecision::F32, WeightPrecision::F16, WeightPrecision::Int8, WeightPrecision::Int4];
/// Tokens, width, hidden width and experts of the layer that is compared with a dense one: S-E16 with four images.
const EXPERTS: [usize; 4] = [1024, 384, 1536, 16];
/// Tokens of a sample in attention, whose heads are 64 wide.
const TOKENS: [usize; 3] = [64, 256, 1024];
const HEADS: usize = 6;
/// A measurement takes at least this long, so that the time of a submission hardly counts.
const SHORTEST_MS: f64 = 5.0;
/// A product that would take longer is left out: drivers end what takes seconds.
const LONGEST_MS: f64 = 200.0;
const ROUNDS: usize = 5;

/// All measurements of one device.
#[derive(Serialize)]
pub(super) struct Micro {
    version: &'static str,
    device: String,
    driver: String,
    /// Of the processor, to record and submit a dispatch.
    submit_us: Spread,
    rows: Vec<Row>,
    /// What wgpu can do with the device's matrix units: `M×N×K, type of the factors, type of the sums`.
    cooperative_matrices: Vec<String>,
}

#[derive(Serialize)]
struct Row {
    what: String,
    /// Compilation of its pipeline, where it is new.
    pipeline_ms: Option<f64>,
    /// One dispatch.
    us: Spread,
    /// From the median; `None` where arithmetic is not the point.
    gflops: Option<f64>,
}

/// Measures the preferred adapter.
pub(super) fn measure() -> Result<Micro, Box<dyn std::error::Error>> {
    let gpu = Gpu::headless()?;
    let (submit_us, dispatch) = dispatches(&gpu)?;
    let mut rows = vec![dispatch];
    let tiles: &[Option<Tile>] = match gpu.profile {
        Profile::Gpu => &[Some(Tile::Small), Some(Tile::Large)],
        // Registers instead of tiles.
        Profile::Software => &[None],
    };
    for &tile in tiles {
        let gpu = Gpu::headless_with(GpuOptions { tile, ..GpuOptions::default() })?;
        for precision in PRECISIONS {
            products(&gpu, precision, &mut rows)?;
        }
    }
    experts(&gpu, &mut rows)?;
    for tokens in TOKENS {
        rows.push(attention(&gpu, tokens)?);
    }
    Ok(Micro {
        version: env!("CARGO_PKG_VERSION"),
        device: gpu.describe(),
        driver: format!("{} {}", gpu.info.driver, gpu.info.driver_info).trim().to_owned(),
        submit_us,
        rows,
        cooperative_matrices: cooperative_matrices(),
    })
}

/// The cost of a dispatch: a softmax of four numbers in place, again and again.
fn dispatches(gpu: &Gpu) -> Result<(Spread, Row), GpuError> {
    let x = Tensor::upload(gpu, "numbers", &[1, 4], &[1.0_f32; 4]);
    let mut tape = Tape::default();
    let softmax = Softmax { x: &x, columns: 4, scale: 1.0 };
    let one = recorded(gpu, |tape| tape.push(gpu, "", &softmax));
    (0..DISPATCHES).for_each(|_| tape.append(&one.tape));
    let (mut submitting, mut all) = (Vec::new(), Vec::new());
    for round in 0..=ROUNDS {
        let begin = Instant::now();
        tape.run(gpu);
        let submitted = milliseconds(begin);
        gpu.wait()?;
        if round > 0 {
            submitting.push(1e3 * submitted / DISPATCHES as f64);
            all.push(1e3 * milliseconds(begin) / DISPATCHES as f64);
        }
    }
    let what = format!("dispatch of almost no work, one of {DISPATCHES} in a row");
    let row = Row { what, pipeline_ms: one.pipeline_ms, us: Spread::of(all), gflops: None };
    Ok((Spread::of(submitting), row))
}

/// Products with one kind of weights, small ones first.
fn products(gpu: &Gpu, precision: WeightPrecision, rows: &mut Vec<Row>) -> Result<(), GpuError> {
    let mut last: Option<f64> = None;
    for [s, k, n] in PRODUCTS {
        let flops = 2.0 * (s * k * n) as f64;
        if last.is_some_and(|gflops| flops / gflops / 1e6 > LONGEST_MS) {
            continue;
        }
        let x = Tensor::upload(gpu, "x", &[s, k], &numbers(s * k));
        let weights = Matrix::new(gpu, "weights", n, k, precision);
        weights.write_rows(gpu, 0, &StoredRows::floats(k, numbers(n * k)));
        let y = Tensor::empty(gpu, "y", &[s, n]);
        let linear = Linear::new(&x, &weights, &y);
        let layer = recorded(gpu, |tape| linear.record(gpu, tape, ""));
        let what = format!("product {s}×{k} by {k}×{n}, {precision}, {}", tile(gpu));
        let row = timed(gpu, what, &layer, Some(flops))?;
        last = row.gflops;
        rows.push(row);
    }
    Ok(())
}

fn tile(gpu: &Gpu) -> &'static str {
    match (gpu.profile, gpu.tiling) {
        (Profile::Software, _) => "registers only",
        (Profile::Gpu, Tiling::Only(tile)) => tile.describe(),
        (Profile::Gpu, Tiling::LargeFrom(_)) => "tiles by size",
    }
}

/// As many rows in a dense layer, in experts that take the same number each, and in experts of which one takes half.
fn experts(gpu: &Gpu, rows: &mut Vec<Row>) -> Result<(), GpuError> {
    let [s, k, n, e] = EXPERTS;
    let flops = 2.0 * (s * k * n) as f64;
    let x = Tensor::upload(gpu, "x", &[s, k], &numbers(s * k));
    let words = pack_rows(&numbers(n * k), k, WeightPrecision::F16);
    let all: Vec<u32> = words.iter().copied().cycle().take(e * words.len()).collect();
    let weights = Tensor::upload(gpu, "experts", &[e, n, words.len() / n], &all);
    let chosen: Vec<u32> = (0..e).flat_map(|_| 0..s as u32).collect();
    let chosen = Tensor::upload(gpu, "chosen", &[e, s], &chosen);
    let y = Tensor::empty(gpu, "y", &[s, n]);

    let dense = Matrix::new(gpu, "dense", n, k, WeightPrecision::F16);
    dense.write_rows(gpu, 0, &StoredRows::floats(k, numbers(n * k)));
    let linear = Linear::new(&x, &dense, &y);
    let layer = recorded(gpu, |tape| linear.record(gpu, tape, ""));
    let what = format!("dense {s}×{k} by {k}×{n}, f16, {}", tile(gpu));
    rows.push(timed(gpu, what, &layer, Some(flops))?);

    let even = vec![(s / e) as u32; e];
    let rest = (s / 2 / (e - 1)) as u32;
    let mut skewed = vec![rest; e];
    skewed[0] = s as u32 - rest * (e - 1) as u32;
    for (name, counts) in [("the same number each", even), ("one takes half", skewed)] {
        let counts = Tensor::upload(gpu, "counts", &[e], &counts);
        let layer = ExpertLinear {
            x: &x,
            source: Source::Tokens,
            counts: &counts,
            chosen: &chosen,
            weights: &weights,
            precision: WeightPrecision::F16,
            experts: 0..e,
            form: Form::Linear(None),
            rows: 0..s,
            y: &y,
            y_first: 0,
        };
        let what = format!("{e} experts, as many rows, {name}");
        let layer = recorded(gpu, |tape| tape.push(gpu, "", &layer));
        rows.push(timed(gpu, what, &layer, Some(flops))?);
    }
    Ok(())
}

/// As many tokens in all, whatever the number in a sample.
fn attention(gpu: &Gpu, tokens: usize) -> Result<Row, GpuError> {
    let (s, width) = (TOKENS[TOKENS.len() - 1], 64 * HEADS);
    let qkv = Tensor::upload(gpu, "qkv", &[s, 3 * width], &numbers(3 * s * width));
    let y = Tensor::empty(gpu, "y", &[s, width]);
    let layer = Attention::to_itself(&qkv, s / tokens, HEADS, &y);
    let layer = recorded(gpu, |tape| tape.push(gpu, "", &layer));
    let what = format!("attention, {} × {tokens} tokens, {HEADS} heads of 64", s / tokens);
    timed(gpu, what, &layer, Some(4.0 * (s * tokens * width) as f64))
}

/// A dispatch, and how long its pipeline took to compile if it is new.
struct Recorded {
    tape: Tape,
    pipeline_ms: Option<f64>,
}

fn recorded(gpu: &Gpu, record: impl FnOnce(&mut Tape)) -> Recorded {
    let known = gpu.specialisations().len();
    let begin = Instant::now();
    let mut tape = Tape::default();
    record(&mut tape);
    let time = milliseconds(begin);
    let pipeline_ms = (gpu.specialisations().len() > known).then_some(time);
    Recorded { tape, pipeline_ms }
}

/// Times a dispatch: as many in one submission as a measurement needs, several times.
fn timed(gpu: &Gpu, what: String, one: &Recorded, flops: Option<f64>) -> Result<Row, GpuError> {
    let mut tape = one.tape.clone();
    // The first run also uploads.
    one.tape.run(gpu);
    gpu.wait()?;
    let run = |tape: &Tape| -> Result<f64, GpuError> {
        let begin = Instant::now();
        tape.run(gpu);
        gpu.wait()?;
        Ok(milliseconds(begin))
    };
    while run(&tape)? < SHORTEST_MS && tape.len() < DISPATCHES {
        tape.append(&tape.clone());
    }
    let times: Result<Vec<f64>, _> = (0..ROUNDS).map(|_| run(&tape)).collect();
    let us: Vec<f64> = times?.into_iter().map(|ms| 1e3 * ms / tape.len() as f64).collect();
    let us = Spread::of(us);
    let gflops = flops.map(|flops| flops / us.median / 1e3);
    Ok(Row { what, pipeline_ms: one.pipeline_ms, us, gflops })
}

/// Numbers without a pattern, about 1 in size: zeros would take less power, and with it less time.
fn numbers(count: usize) -> Vec<f32> {
    (0..count as u32).map(|i| (i.wrapping_mul(2_654_435_769) >> 8) as f32 / 8e6 - 1.0).collect()
}

/// What wgpu reports about the matrix units of the preferred adapter. No kernel uses them.
fn cooperative_matrices() -> Vec<String> {
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle());
    let options = wgpu::RequestAdapterOptions {
        power_preference: wgpu::PowerPreference::HighPerformance,
        ..Default::default()
    };
    let Ok(adapter) = pollster::block_on(instance.request_adapter(&options)) else {
        return Vec::new();
    };
    let properties = adapter.cooperative_matrix_properties();
    let text = |p: &wgpu::CooperativeMatrixProperties| {
        format!("{}×{}×{}, {:?}, {:?}", p.m_size, p.n_size, p.k_size, p.ab_type, p.cr_type)
    };
    properties.iter().map(text).collect()
}

impl Micro {
    pub(super) fn print(&self) {
        println!("{}\n{}\n", self.device, self.driver);
        println!(
            "{:<66} {:>10} {:>10} {:>10} {:>9} {:>9}",
            "", "µs median", "min", "max", "GFLOP/s", "pipeline"
        );
        for Row { what, pipeline_ms, us, gflops } in &self.rows {
            let gflops = gflops.map_or_else(String::new, |gflops| format!("{gflops:.1}"));
            let pipeline = pipeline_ms.map_or_else(String::new, |ms| format!("{ms:.0} ms"));
            println!(
                "{what:<66} {:>10.1} {:>10.1} {:>10.1} {gflops:>9} {pipeline:>9}",
                us.median, us.min, us.max
            );
        }
        println!("\nThe processor takes {:.2} µs to submit a dispatch.", self.submit_us.median);
        match &self.cooperative_matrices[..] {
            [] => println!("wgpu offers no matrix units of this device."),
            all => println!("Matrix units, of which no kernel makes use: {}.", all.join("; ")),
        }
    }
}
