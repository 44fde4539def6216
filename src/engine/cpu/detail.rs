//! The detail head: three convolutions over whole pixels, whose result is added to the predicted sample.
//!
//! ```text
//! h = [x, z, t, row, column]  [height, width, 2C + 3]    predicted sample, noised sample, time, phases in a patch
//! h = SiLU(conv_in(h))        [height, width, K]
//! h = SiLU(conv_mid(h))       [height, width, K]
//! x += conv_out(h)            [C, height, width]
//! ```
//!
//! Without `Config::detail_phase` there are no phases, and 2C + 1 channels.

use rayon::prelude::*;

use super::weights::OnCpu;
use crate::model::{Config, DetailHead};
use crate::simd::conv::{Activation, ConvWeights, Ending, Source, conv_rows};

/// Feature maps of one sample.
#[derive(Default)]
struct Maps {
    from: Vec<f32>,
    to: Vec<f32>,
}

/// Finishes every predicted sample in `output`, with the noised ones, all `[B, C, height, width]`, and the times `[B]`.
/// Threads share samples, and rows of each.
pub(super) fn detail_head(
    config: &Config,
    w: &DetailHead<OnCpu>,
    noised: &[f32],
    times: &[f32],
    output: &mut [f32],
) {
    let len = config.sample_len();
    let samples = output.par_chunks_mut(len).zip(noised.par_chunks(len)).zip(times);
    samples.for_each_init(Maps::default, |maps, ((x, z), &time)| {
        maps.join(config, x, z, time);
        maps.convolve(config, &w.conv_in, Activation::Silu);
        maps.convolve(config, &w.conv_mid, Activation::Silu);
        maps.convolve(config, &w.conv_out, Activation::None);
        for (c, plane) in x.chunks_exact_mut(config.plane()).enumerate() {
            let more = maps.from.chunks_exact(config.in_channels);
            plane.iter_mut().zip(more).for_each(|(x, more)| *x += more[c]);
        }
    });
}

impl Maps {
    /// `from = [x, z, t, row, column]`, the channel fastest.
    fn join(&mut self, config: &Config, x: &[f32], z: &[f32], time: f32) {
        let (plane, channels) = (config.plane(), config.detail_inputs());
        let (time_at, width) = (2 * config.in_channels, config.input_size[1]);
        self.from.resize(plane * channels, 0.0);
        for (i, pixel) in self.from.chunks_exact_mut(channels).enumerate() {
            let planes = x.chunks_exact(plane).chain(z.chunks_exact(plane));
            pixel.iter_mut().zip(planes).for_each(|(p, plane)| *p = plane[i]);
            pixel[time_at] = time;
            if let [row, column] = &mut pixel[time_at + 1..] {
                (*row, *column) = (config.phase(i / width), config.phase(i % width));
            }
        }
    }

    /// `from = activation(conv(from))`
    fn convolve(&mut self, config: &Config, w: &ConvWeights, activation: Activation) {
        let (size, plane) = (config.input_size, config.plane());
        let channels = self.from.len() / plane;
        self.to.resize(plane * w.outputs(), 0.0);
        let source = Source { x: &self.from, size, channels, enlarge: false };
        conv_rows(w, &source, 0, Ending { add: false, activation }, &mut self.to);
        std::mem::swap(&mut self.from, &mut self.to);
    }
}
