//! Asynchronous read-back: schedule a copy with the work, collect it when it has arrived.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use web_time::Instant;

use super::{Gpu, GpuError, Pod, Tensor};

const WAITING: u8 = 0;
const ARRIVED: u8 = 1;
const FAILED: u8 = 2;

/// Copies of some tensors that are under way to the host.
#[derive(Debug)]
pub struct Readback {
    staging: wgpu::Buffer,
    /// Byte range of each tensor in `staging`.
    ranges: Vec<std::ops::Range<u64>>,
    state: Arc<AtomicU8>,
}

impl Readback {
    /// Adds copies of `tensors` to `encoder`; they set out when its commands are submitted.
    pub fn schedule(gpu: &Gpu, encoder: &mut wgpu::CommandEncoder, tensors: &[&Tensor]) -> Self {
        Self::schedule_ranges(
            gpu,
            encoder,
            &tensors.iter().map(|t| (*t, 0..t.len())).collect::<Vec<_>>(),
        )
    }

    /// As [`Readback::schedule`], but only some elements of each tensor.
    pub fn schedule_ranges(
        gpu: &Gpu,
        encoder: &mut wgpu::CommandEncoder,
        tensors: &[(&Tensor, std::ops::Range<usize>)],
    ) -> Self {
        let mut end = 0;
        let ranges: Vec<_> = tensors
            .iter()
            .map(|(_, elements)| {
                let start = end;
                end += elements.len() as u64 * 4;
                start..end
            })
            .collect();
        let staging = gpu.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("readback"),
            size: end.max(4),
            usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        });
        for ((tensor, elements), range) in
            tensors.iter().zip(&ranges).filter(|(_, range)| !range.is_empty())
        {
            let (from, bytes) = (elements.start as u64 * 4, range.end - range.start);
            encoder.copy_buffer_to_buffer(&tensor.buffer, from, &staging, range.start, bytes);
        }
        let state = Arc::new(AtomicU8::new(WAITING));
        let told = state.clone();
        encoder.map_buffer_on_submit(&staging, wgpu::MapMode::Read, .., move |result| {
            told.store(if result.is_ok() { ARRIVED } else { FAILED }, Ordering::Release);
        });
        Self { staging, ranges, state }
    }

    /// Whether the copies have arrived (or never will). Never waits.
    pub fn is_ready(&self) -> bool {
        self.state.load(Ordering::Acquire) != WAITING
    }

    /// As [`Readback::take`], as soon as the copies have arrived: for work of some milliseconds.
    ///
    /// # Errors
    /// When the device is lost, or nothing arrives within a minute: browsers compile pipelines meanwhile.
    pub(crate) async fn arrived(self, gpu: &Gpu) -> Result<Vec<Vec<u8>>, GpuError> {
        /// Longer than any driver takes for some twenty pipelines.
        const PATIENCE: Duration = Duration::from_mins(1);
        gpu.until(|| self.is_ready(), PATIENCE).await?;
        self.take()
    }

    /// Bytes of each tensor, in the order they were scheduled.
    ///
    /// # Errors
    /// When the copies have not arrived, or the device was lost on the way.
    pub fn take(self) -> Result<Vec<Vec<u8>>, GpuError> {
        if self.state.load(Ordering::Acquire) != ARRIVED {
            return Err(GpuError::Lost("a result could not be read back".into()));
        }
        let view =
            self.staging.get_mapped_range(..).map_err(|error| GpuError::Lost(error.to_string()))?;
        let copy =
            |range: &std::ops::Range<u64>| view[range.start as usize..range.end as usize].to_vec();
        Ok(self.ranges.iter().map(copy).collect())
    }
}

/// Reads a whole tensor and waits for it: for tests and taps.
///
/// # Errors
/// When the device fails.
pub fn read_now<T: Pod>(gpu: &Gpu, tensor: &Tensor) -> Result<Vec<T>, GpuError> {
    let mut encoder = gpu.encoder();
    let readback = Readback::schedule(gpu, &mut encoder, &[tensor]);
    gpu.queue.submit([encoder.finish()]);
    gpu.wait()?;
    // Whoever waits for the device runs the callbacks of all: another thread may have picked ours up and
    // still be in flight. It needs microseconds; after seconds something else is wrong.
    let begin = Instant::now();
    while !readback.is_ready() && begin.elapsed().as_secs() < 10 {
        std::thread::yield_now();
    }
    let bytes = readback.take()?;
    Ok(bytes.iter().flat_map(|part| bytemuck::pod_collect_to_vec(part)).collect())
}
