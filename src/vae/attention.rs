//! Self-attention of all pixels with one head as wide as the feature map, on the processor.

use rayon::prelude::*;

use super::plan::Attention;
use crate::checkpoint::{CheckpointError, TensorFile};
use crate::cpu::math::{softmax_rows, vectorised};
use crate::cpu::matmul::Matrix;

/// Query, key, value and output projection, `[C, C]` each with a bias.
pub(super) struct AttentionWeights {
    layers: [(Matrix, Vec<f32>); 4],
    channels: usize,
}

/// Queries, keys and values of a picture, as the products take them.
#[derive(Default)]
pub(super) struct Attended {
    /// `[T, C]`
    queries: Vec<f32>,
    keys: Matrix,
    values: Matrix,
}

/// Rows that a task computes at a time, so that their scores stay in the cache.
const ROWS: usize = 48;

impl AttentionWeights {
    pub(super) fn load(file: &TensorFile, layer: &Attention) -> Result<Self, CheckpointError> {
        let read = |name: &String| -> Result<_, CheckpointError> {
            let bias = file.read(&format!("{name}.bias"))?;
            let weight = file.read(&format!("{name}.weight"))?;
            Ok((Matrix::new(bias.len(), bias.len(), &weight), bias))
        };
        let [query, key, value, out] = &layer.names;
        let layers = [read(query)?, read(key)?, read(value)?, read(out)?];
        Ok(Self { channels: layers[0].1.len(), layers })
    }

    /// Tokens that [`AttentionWeights::add_rows`] should get at least, so that all threads have work.
    pub(super) fn rows_at_once() -> usize {
        ROWS * rayon::current_num_threads()
    }

    /// One of the projections of rows `[C]`.
    fn project(&self, which: usize, x: &[f32]) -> Vec<f32> {
        let c = self.channels;
        let (matrix, bias) = &self.layers[which];
        let mut out = vec![0.0; x.len()];
        out.par_chunks_mut(ROWS * c).zip(x.par_chunks(ROWS * c)).for_each(|(out, x)| {
            matrix.apply(Some(bias), |r| &x[r * c..][..c], out);
        });
        out
    }

    /// Everything that all rows need of the normalised picture `x`, `[T, C]`.
    pub(super) fn prepare(&self, x: &[f32]) -> Attended {
        let (c, tokens) = (self.channels, x.len() / self.channels);
        let mut attended = Attended { queries: self.project(0, x), ..Attended::default() };
        let keys = self.project(1, x);
        attended.keys.pack_rows(tokens, c, |t| &keys[t * c..][..c]);
        let values = self.project(2, x);
        attended.values.pack_columns(c, tokens, |t| &values[t * c..][..c]);
        attended
    }

    /// Adds the output for tokens from `first` on to `to`, `[rows, C]`.
    pub(super) fn add_rows(&self, from: &Attended, first: usize, to: &mut [f32]) {
        let c = self.channels;
        let tokens = from.queries.len() / c;
        let scale = 1.0 / (c as f32).sqrt();
        let (matrix, bias) = &self.layers[3];
        to.par_chunks_mut(ROWS * c).enumerate().for_each_init(
            || [Vec::new(), Vec::new(), Vec::new()],
            |[scores, mixed, out]: &mut [Vec<f32>; 3], (task, to)| {
                let start = first + task * ROWS;
                scores.resize(to.len() / c * tokens, 0.0);
                from.keys.apply(None, |r| &from.queries[(start + r) * c..][..c], scores);
                softmax_rows(scores, tokens, scale);
                mixed.resize(to.len(), 0.0);
                from.values.apply(None, |r| &scores[r * tokens..][..tokens], mixed);
                out.resize(to.len(), 0.0);
                matrix.apply(Some(bias), |r| &mixed[r * c..][..c], out);
                vectorised(|| to.iter_mut().zip(out.iter()).for_each(|(to, out)| *to += out));
            },
        );
    }
}
