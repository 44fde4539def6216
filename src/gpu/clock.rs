//! GPU timestamps around parts of a step, read asynchronously.

use super::{Gpu, Tensor};

/// Parts that one step may have: a query set holds at most 4096 stamps in WebGPU.
const MAX_PARTS: u32 = 2048;

/// Begin and end stamps of the parts of a step.
#[derive(Debug)]
pub struct Clock {
    queries: wgpu::QuerySet,
    /// Two stamps of two words a part.
    stamps: Tensor,
    used: u32,
    nanoseconds_per_tick: f32,
}

impl Clock {
    /// A clock, where the device has one.
    pub fn new(gpu: &Gpu) -> Option<Self> {
        if !gpu.has_timestamps() {
            return None;
        }
        let queries = gpu.device.create_query_set(&wgpu::QuerySetDescriptor {
            label: Some("stages"),
            ty: wgpu::QueryType::Timestamp,
            count: 2 * MAX_PARTS,
        });
        let words = 4 * MAX_PARTS as usize;
        let buffer = gpu.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("stages"),
            size: 4 * words as u64,
            usage: wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC,
            mapped_at_creation: false,
        });
        let stamps = Tensor { buffer, shape: vec![words], label: "stages".into() };
        let nanoseconds_per_tick = gpu.queue.get_timestamp_period();
        Some(Self { queries, stamps, used: 0, nanoseconds_per_tick })
    }

    /// Discards the parts of the previous step.
    pub fn restart(&mut self) {
        self.used = 0;
    }

    /// Where the next part writes its stamps; `None` when there were too many.
    pub(super) fn next(&mut self) -> Option<wgpu::ComputePassTimestampWrites<'_>> {
        if self.used == MAX_PARTS {
            return None;
        }
        let first = 2 * self.used;
        self.used += 1;
        Some(wgpu::ComputePassTimestampWrites {
            query_set: &self.queries,
            beginning_of_pass_write_index: Some(first),
            end_of_pass_write_index: Some(first + 1),
        })
    }

    /// Makes the stamps of the step readable: the tensor, and how many of its words count.
    pub fn resolve(&self, encoder: &mut wgpu::CommandEncoder) -> (&Tensor, usize) {
        if self.used > 0 {
            encoder.resolve_query_set(&self.queries, 0..2 * self.used, &self.stamps.buffer, 0);
        }
        (&self.stamps, 4 * self.used as usize)
    }

    /// Milliseconds of each part, from the words that were read back.
    pub fn milliseconds(&self, words: &[u32]) -> Vec<f32> {
        let stamp = |lo: u32, hi: u32| u64::from(hi) << 32 | u64::from(lo);
        let parts = words.as_chunks::<4>().0.iter();
        let ticks = parts.map(|&[a, b, c, d]| stamp(c, d).saturating_sub(stamp(a, b)));
        ticks.map(|ticks| ticks as f32 * self.nanoseconds_per_tick / 1e6).collect()
    }
}
