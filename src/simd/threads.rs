//! Division of work among threads: rows and scratch memory for each.

use std::sync::{Mutex, PoisonError};

use super::math::vector_width;
use super::matmul::Matrix;

/// The processor and how it computes, for display.
pub(crate) fn describe() -> String {
    let threads = match rayon::current_num_threads() {
        1 => "1 thread".to_owned(),
        n => format!("{n} threads"),
    };
    format!("processor, {threads}, vectors of {}", vector_width())
}

/// Rows that one task should have at most: their inputs and outputs then stay in a core's own cache.
const MOST_ROWS: usize = 96;

/// Rows per task for `rows` rows: as even as possible over the threads, in whole tiles of six.
pub(crate) fn row_chunk(rows: usize) -> usize {
    let threads = rayon::current_num_threads();
    let tasks = threads * rows.div_ceil(threads * MOST_ROWS).max(1);
    rows.div_ceil(tasks).next_multiple_of(6)
}

/// What only one thread sees at a time. Everything grows to the size that was needed and stays.
#[derive(Default)]
pub(crate) struct Scratch {
    /// Between the two layers of a network, or attention scores
    pub(crate) hidden: Vec<f32>,
    /// The second half of a gated network
    pub(crate) up: Vec<f32>,
    /// What is about to be added to the residual stream
    pub(crate) out: Vec<f32>,
    /// One head's keys
    pub(crate) keys: Matrix,
    /// One head's values
    pub(crate) values: Matrix,
}

/// One [`Scratch`] for each thread.
pub(crate) struct ScratchPool(Vec<Mutex<Scratch>>);

impl Default for ScratchPool {
    fn default() -> Self {
        Self((0..rayon::current_num_threads().max(1)).map(|_| Mutex::default()).collect())
    }
}

impl ScratchPool {
    /// Lends the calling thread its scratch. Tasks do not wait for other tasks while they hold it.
    pub(crate) fn with<R>(&self, body: impl FnOnce(&mut Scratch) -> R) -> R {
        let index = rayon::current_thread_index().unwrap_or(0) % self.0.len();
        // A task that panicked leaves numbers that the next one overwrites.
        body(&mut self.0[index].lock().unwrap_or_else(PoisonError::into_inner))
    }
}
