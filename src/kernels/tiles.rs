//! Which tile suits products on a device: measured in the shapes of a model, once for an adapter with its driver.
//!
//! Large tiles read less, small ones keep more of a GPU busy. Where the one outweighs the other depends on the number of
//! its cores and on its caches, which no adapter reports. No bit of a result depends on the choice.

use std::time::Duration;

use super::{Linear, Matrix, WeightPrecision};
use crate::checkpoint::StoredRows;
use crate::gpu::{Gpu, GpuError, InFlight, Kernel, Profile, Tape, Tensor, Tile, Tiling};

/// A product that a model computes often.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Product {
    /// Rows of tokens.
    pub rows: usize,
    /// Columns of the weights.
    pub inputs: usize,
    /// Rows of the weights.
    pub outputs: usize,
    /// The format of the weights.
    pub precision: WeightPrecision,
}

/// A measurement takes at least this long, so that submission and the clocks of browsers hardly count.
const SHORTEST_MS: f32 = 5.0;

/// The fastest of so many measurements counts: others had company on the device.
const ROUNDS: usize = 3;

/// Most repetitions in a measurement.
const MOST_TIMES: usize = 4096;

/// Another tiling than the usual one has to save this part of the time.
const LEAST_GAIN: f32 = 0.03;

/// Longest wait for a measurement: browsers compile the pipeline meanwhile.
const PATIENCE: Duration = Duration::from_mins(1);

/// Times both tiles on products, and returns the tiling under which they take the least time.
///
/// # Errors
/// When the device fails or does not answer.
pub async fn measure(gpu: &Gpu, products: &[Product]) -> Result<Tiling, GpuError> {
    let mut timed = Vec::with_capacity(products.len());
    for &product in products {
        timed.push(time(gpu, product).await?);
    }
    Ok(fastest(&timed))
}

/// The time of a product with each tile.
#[derive(Clone, Copy, Debug)]
struct Timed {
    /// Large tiles in it.
    large: u32,
    /// Milliseconds, in the order of [`Tile::ALL`].
    ms: [f32; Tile::ALL.len()],
}

/// The tiling with the lowest sum of times, each relative to the product's fastest; the usual one where none saves
/// more than noise.
fn fastest(timed: &[Timed]) -> Tiling {
    let cost = |tiling: Tiling| -> f32 {
        let of = |timed: &Timed| {
            let best = timed.ms.into_iter().fold(f32::INFINITY, f32::min).max(f32::MIN_POSITIVE);
            timed.ms[tiling.tile(timed.large) as usize] / best
        };
        timed.iter().map(of).sum()
    };
    let usual = Tiling::default();
    let others = timed.iter().flat_map(|timed| [timed.large, timed.large + 1]);
    let best = others.map(Tiling::LargeFrom).min_by(|&a, &b| cost(a).total_cmp(&cost(b)));
    best.filter(|&best| cost(best) < (1.0 - LEAST_GAIN) * cost(usual)).unwrap_or(usual)
}

async fn time(gpu: &Gpu, product: Product) -> Result<Timed, GpuError> {
    let Product { rows, inputs, outputs, precision } = product;
    let x = Tensor::upload(gpu, "x", &[rows, inputs], &numbers(rows * inputs));
    let weights = Matrix::new(gpu, "weights", outputs, inputs, precision);
    weights.write_rows(gpu, 0, &StoredRows::floats(inputs, numbers(outputs * inputs)));
    let y = Tensor::empty(gpu, "y", &[rows, outputs]);
    let linear = Linear::new(&x, &weights, &y);
    let tapes = Tile::ALL.map(|tile| {
        let mut tape = Tape::default();
        linear.calls(Tiling::Only(tile)).for_each(|call| tape.push(gpu, "", &call));
        tape
    });
    let mut times = [1; Tile::ALL.len()];
    for (tape, times) in tapes.iter().zip(&mut times) {
        // The first run also uploads, and may compile.
        run(gpu, tape, 1).await?;
        while *times < MOST_TIMES && run(gpu, tape, *times).await? < SHORTEST_MS {
            *times *= 2;
        }
    }
    let mut ms = [f32::INFINITY; Tile::ALL.len()];
    for round in 0..ROUNDS {
        for ((tape, &times), ms) in tapes.iter().zip(&times).zip(&mut ms) {
            // A slow device is not held up by rounds of a product that is a measurement by itself.
            if times > 1 || round == 0 {
                *ms = ms.min(run(gpu, tape, times).await? / times as f32);
            }
        }
    }
    let tiles = linear.calls(Tiling::Only(Tile::Large)).map(|call| call.groups(Profile::Gpu));
    Ok(Timed { large: tiles.map(|[x, y, _]| x * y).max().unwrap_or(0), ms })
}

/// Milliseconds until the device reports that a tape is done so many times.
async fn run(gpu: &Gpu, tape: &Tape, times: usize) -> Result<f32, GpuError> {
    let mut encoder = gpu.encoder();
    tape.encode_again(&mut encoder, 0..tape.len(), times);
    let mut work = InFlight::default();
    work.submit(gpu, encoder.finish());
    work.finished(gpu, PATIENCE).await
}

/// Numbers without a pattern, about 1 in size: zeros would take less power, and with it less time.
fn numbers(count: usize) -> Vec<f32> {
    (0..count as u32).map(|i| (i.wrapping_mul(2_654_435_769) >> 8) as f32 / 8e6 - 1.0).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::testing::gpu;

    fn choice(timed: &[(u32, [f32; 2])]) -> Tiling {
        let timed: Vec<_> = timed.iter().map(|&(large, ms)| Timed { large, ms }).collect();
        fastest(&timed)
    }

    #[test]
    fn the_tiling_follows_from_the_times() {
        let usual = Tiling::default();
        assert_eq!(usual, Tiling::LargeFrom(128));
        // As usual: small tiles for 24, large ones for 200.
        assert_eq!(choice(&[(24, [1.0, 2.0]), (200, [2.0, 1.0])]), usual);
        // A small device, which large tiles suit early.
        assert_eq!(choice(&[(24, [2.0, 1.0]), (72, [3.0, 1.0])]), Tiling::LargeFrom(24));
        // A wide one, which needs more workgroups than usual.
        assert_eq!(choice(&[(150, [1.0, 2.0]), (450, [1.0, 1.5])]), Tiling::LargeFrom(451));
        assert_eq!(choice(&[(150, [1.0, 2.0]), (450, [1.5, 1.0])]), Tiling::LargeFrom(151));
        // Noise decides nothing.
        assert_eq!(choice(&[(24, [1.02, 1.0]), (72, [1.02, 1.0])]), usual);
        assert_eq!(choice(&[(72, [0.0, 0.0])]), usual);
        assert_eq!(choice(&[]), usual);
    }

    #[test]
    fn products_are_timed_on_a_device() {
        let product =
            Product { rows: 65, inputs: 12, outputs: 130, precision: WeightPrecision::F16 };
        let timed = pollster::block_on(time(gpu(), product)).unwrap();
        assert_eq!(timed.large, 6);
        assert!(timed.ms.iter().all(|ms| (1e-5..1e4).contains(ms)), "{timed:?}");
        assert_eq!(gpu().failure(), None);
    }
}
