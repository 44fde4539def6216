//! The kernels that only image decoders have.

use super::Bench;
use super::numbers::numbers;
use crate::kernels::group_stats::CHUNK;
use crate::kernels::pixel_rows::Way;
use crate::kernels::{GroupFold, GroupNorm, GroupStats, PixelRows, Softmax};

/// Channels, channels of a group, and pixels.
pub(super) const MAP: [usize; 3] = [8, 2, 77];
/// Added to the variance.
pub(super) const EPS: f32 = 1e-6;
/// Rows, columns that count, and all columns.
pub(super) const SCORES: [usize; 3] = [5, 65, 68];
/// The first pixel that becomes a row, and the rows.
pub(super) const BLOCK: [usize; 2] = [70, 9];

pub(super) fn record(bench: &mut Bench) {
    let [channels, group, pixels] = MAP;
    let quads = channels / 4;
    let x = bench.tensor(&[channels * pixels], &numbers(channels * pixels, 100, 2.0));
    let partial = bench.output(&[pixels.div_ceil(CHUNK), quads, 2, 4]);
    bench.push(&GroupStats { x: &x, pixels, quads, first_quad: 0, partial: &partial });
    let weights = bench.tensor(&[2, channels], &numbers(2 * channels, 101, 1.0));
    let table = bench.output(&[3, channels]);
    bench.push(&GroupFold {
        partial: &partial,
        weights: &weights,
        pixels,
        group,
        eps: EPS,
        table: &table,
    });
    let y = bench.output(&[channels * pixels]);
    bench.push(&GroupNorm {
        x: Some(&x),
        table: &table,
        pixels,
        quads,
        first_quad: 0,
        silu: true,
        y: &y,
    });
    bench.expect("group_norm", "group_stats, group_fold, group_norm", &y);

    let [rows, columns, stride] = SCORES;
    let scores = bench.tensor(&[rows, stride], &numbers(rows * stride, 102, 20.0));
    bench.push(&Softmax { x: &scores, columns, scale: 0.5 });
    bench.expect("softmax", "softmax", &scores);

    let [first_pixel, rows] = BLOCK;
    let image = bench.tensor(&[channels * pixels], &numbers(channels * pixels, 103, 1.0));
    let tokens = bench.output(&[rows, channels]);
    let call = PixelRows {
        rows: &tokens,
        image: &image,
        way: Way::ToRows,
        quads,
        first_quad: 0,
        pixels,
        first_pixel,
    };
    bench.push(&call);
    bench.push(&PixelRows { way: Way::AddToPixels, ..call });
    bench.expect_exactly("pixel_rows, rows", "pixel_rows", &tokens);
    // Those of the block doubled.
    bench.expect_exactly("pixel_rows, added", "pixel_rows", &image);
}
