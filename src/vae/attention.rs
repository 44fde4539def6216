//! Self-attention of all pixels with one head as wide as the feature map, on the processor.

use rayon::prelude::*;

use super::plan::Attention;
use crate::checkpoint::{CheckpointError, TensorFile};
use crate::simd::math::{softmax_rows, vectorised};
use crate::simd::matmul::{Matrix, rows_of};

/// Query, key, value and output projection, `[C, C]` each with a bias.
pub(super) struct AttentionWeights {
    layers: [(Matrix, Vec<f32>); 4],
    channels: usize,
}

/// Queries, keys and values of an image, as the products take them.
#[derive(Default)]
pub(super) struct Attended {
    /// Of the tokens so far, `[T, C]` each; keys and values until they are packed.
    rows: [Vec<f32>; 3],
    keys: Matrix,
    values: Matrix,
    is_packed: bool,
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
            matrix.apply(Some(bias), &rows_of(x, c), out);
        });
        out
    }

    /// Projects the next `count` tokens of the normalised image `x`, `[T, C]`; returns whether everything that all
    /// rows need is there.
    pub(super) fn prepare(&self, attended: &mut Attended, x: &[f32], count: usize) -> bool {
        if attended.is_packed {
            return true;
        }
        let (c, tokens) = (self.channels, x.len() / self.channels);
        let first = attended.rows[0].len() / c;
        let end = tokens.min(first + count);
        for (which, rows) in attended.rows.iter_mut().enumerate() {
            rows.extend(self.project(which, &x[first * c..end * c]));
        }
        if end == tokens {
            let keys = std::mem::take(&mut attended.rows[1]);
            let values = std::mem::take(&mut attended.rows[2]);
            attended.keys.pack_rows(tokens, c, |t| &keys[t * c..][..c]);
            attended.values.pack_columns(c, tokens, |t| &values[t * c..][..c]);
            attended.is_packed = true;
        }
        end == tokens
    }

    /// Adds the output for tokens from `first` on to `to`, `[rows, C]`.
    pub(super) fn add_rows(&self, from: &Attended, first: usize, to: &mut [f32]) {
        let c = self.channels;
        let queries = &from.rows[0];
        let tokens = queries.len() / c;
        let scale = 1.0 / (c as f32).sqrt();
        let (matrix, bias) = &self.layers[3];
        to.par_chunks_mut(ROWS * c).enumerate().for_each_init(
            || [Vec::new(), Vec::new(), Vec::new()],
            |[scores, mixed, out]: &mut [Vec<f32>; 3], (task, to)| {
                let start = first + task * ROWS;
                scores.resize(to.len() / c * tokens, 0.0);
                let queries = rows_of(&queries[start * c..][..to.len()], c);
                from.keys.apply(None, &queries, scores);
                softmax_rows(scores, tokens, scale);
                mixed.resize(to.len(), 0.0);
                from.values.apply(None, &rows_of(scores, tokens), mixed);
                out.resize(to.len(), 0.0);
                matrix.apply(Some(bias), &rows_of(mixed, c), out);
                vectorised(|| to.iter_mut().zip(out.iter()).for_each(|(to, out)| *to += out));
            },
        );
    }
}
