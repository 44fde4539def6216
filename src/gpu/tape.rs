//! Work as data: record it once, then replay it whole, in slices, or timed.

use std::fmt::Display;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use web_time::Instant;

use super::kernel::shader;
use super::{Clock, Gpu, GpuError, Kernel, MAX_GROUPS, Profile, Tensor, read_now};

/// One recorded dispatch.
#[derive(Clone)]
struct Entry<S> {
    scope: S,
    kernel: &'static str,
    pipeline: wgpu::ComputePipeline,
    bindings: wgpu::BindGroup,
    groups: [u32; 3],
}

/// A list of recorded dispatches. Cloning or appending one costs reference counts only.
///
/// `S` is the scope of a dispatch: plain data chosen by the recorder, such as a layer's name.
#[derive(Clone)]
pub struct Tape<S = &'static str> {
    entries: Vec<Entry<S>>,
}

impl<S> Default for Tape<S> {
    fn default() -> Self {
        Self { entries: Vec::new() }
    }
}

/// A query set holds at most 4096 stamps in WebGPU.
const TIMED_AT_ONCE: usize = 2048;

/// Time that one dispatch took on the device.
#[derive(Clone, Debug, PartialEq)]
pub struct Timing<S = &'static str> {
    /// Where the dispatch belongs.
    pub scope: S,
    /// The kernel's shader.
    pub kernel: &'static str,
    /// Device time.
    pub nanoseconds: f64,
}

impl<S: Clone + Display> Tape<S> {
    /// Records a dispatch of the kernel's variant for the device.
    ///
    /// # Panics
    /// When the kernel needs more workgroups than WebGPU allows: a bug.
    pub fn push<K: Kernel>(&mut self, gpu: &Gpu, scope: S, kernel: &K) {
        self.push_variant(gpu, scope, kernel, gpu.profile);
    }

    /// As [`Tape::push`], with the variant for a profile.
    pub(super) fn push_variant<K: Kernel>(
        &mut self,
        gpu: &Gpu,
        scope: S,
        kernel: &K,
        profile: Profile,
    ) {
        let shader = shader::<K>(profile);
        let groups = kernel.groups(profile);
        assert!(groups.iter().all(|&n| n <= MAX_GROUPS), "{}: {groups:?} workgroups", shader.name);
        let (constants, values) = (kernel.constants(profile), kernel.params());
        if gpu.note(shader, &constants) {
            return;
        }
        let pipeline = gpu.pipeline(shader, &constants);
        let params = gpu.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some(shader.name),
            size: size_of::<K::Params>() as u64,
            usage: wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        });
        gpu.queue.write_buffer(&params, 0, bytemuck::bytes_of(&values));
        let buffers = std::iter::once(&params)
            .chain(kernel.tensors().into_iter().map(|tensor| &tensor.buffer));
        let entries: Vec<_> = (0..)
            .zip(buffers)
            .map(|(binding, buffer)| wgpu::BindGroupEntry {
                binding,
                resource: buffer.as_entire_binding(),
            })
            .collect();
        let bindings = gpu.device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: Some(shader.name),
            layout: &pipeline.get_bind_group_layout(0),
            entries: &entries,
        });
        self.entries.push(Entry { scope, kernel: shader.name, pipeline, bindings, groups });
    }

    /// Appends another tape's work.
    pub fn append(&mut self, other: &Self) {
        self.entries.extend_from_slice(&other.entries);
    }

    /// Number of dispatches.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether nothing is recorded.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Where each dispatch belongs, and its shader, in order.
    pub fn dispatches(&self) -> impl Iterator<Item = (&S, &'static str)> {
        self.entries.iter().map(|entry| (&entry.scope, entry.kernel))
    }

    /// Cuts a range of dispatches where something about their scope changes.
    ///
    /// # Panics
    /// When the range goes beyond the tape.
    pub fn parts<P: PartialEq>(
        &self,
        range: Range<usize>,
        part_of: impl Fn(&S) -> P,
    ) -> Vec<(P, Range<usize>)> {
        let mut start = range.start;
        let same = |a: &Entry<S>, b: &Entry<S>| part_of(&a.scope) == part_of(&b.scope);
        self.entries[range]
            .chunk_by(same)
            .map(|part| {
                start += part.len();
                (part_of(&part[0].scope), start - part.len()..start)
            })
            .collect()
    }

    /// Replays some of the dispatches as one compute pass.
    ///
    /// # Panics
    /// When the range goes beyond the tape.
    pub fn encode(&self, encoder: &mut wgpu::CommandEncoder, range: Range<usize>) {
        self.encode_again(encoder, range, 1);
    }

    /// As [`Tape::encode`], so many times one after the other.
    pub(crate) fn encode_again(
        &self,
        encoder: &mut wgpu::CommandEncoder,
        range: Range<usize>,
        times: usize,
    ) {
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
        for _ in 0..times {
            self.entries[range.clone()].iter().for_each(|entry| entry.dispatch(&mut pass));
        }
    }

    /// As [`Tape::encode`], as one compute pass for each range, with the device's clock read around each.
    ///
    /// # Panics
    /// When a range goes beyond the tape.
    pub fn encode_timed(
        &self,
        encoder: &mut wgpu::CommandEncoder,
        ranges: impl IntoIterator<Item = Range<usize>>,
        clock: &mut Clock,
    ) {
        for range in ranges {
            let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor {
                label: None,
                timestamp_writes: clock.next(),
            });
            for entry in &self.entries[range] {
                entry.dispatch(&mut pass);
            }
        }
    }

    /// Replays everything in one submission. For tests and single forward passes.
    pub fn run(&self, gpu: &Gpu) {
        let mut encoder = gpu.encoder();
        self.encode(&mut encoder, 0..self.len());
        gpu.queue.submit([encoder.finish()]);
    }

    /// Replays everything with a pass for each dispatch and reads the device's clock around each.
    /// Waits; `None` if the device has no timestamps.
    ///
    /// # Errors
    /// When the device fails.
    pub fn time(&self, gpu: &Gpu) -> Result<Option<Vec<Timing<S>>>, GpuError> {
        if !gpu.has_timestamps() {
            return Ok(None);
        }
        let mut timings = Vec::with_capacity(self.len());
        for entries in self.entries.chunks(TIMED_AT_ONCE) {
            let stamps = time_entries(gpu, entries)?;
            let period = f64::from(gpu.queue.get_timestamp_period());
            timings.extend(entries.iter().zip(stamps.as_chunks::<2>().0).map(
                |(entry, [from, to])| Timing {
                    scope: entry.scope.clone(),
                    kernel: entry.kernel,
                    nanoseconds: to.saturating_sub(*from) as f64 * period,
                },
            ));
        }
        Ok(Some(timings))
    }
}

impl<S> Entry<S> {
    fn dispatch(&self, pass: &mut wgpu::ComputePass) {
        let [x, y, z] = self.groups;
        pass.set_pipeline(&self.pipeline);
        pass.set_bind_group(0, &self.bindings, &[]);
        pass.dispatch_workgroups(x, y, z);
    }
}

/// Begin and end stamp of each dispatch, in ticks.
fn time_entries<S: Display>(gpu: &Gpu, entries: &[Entry<S>]) -> Result<Vec<u64>, GpuError> {
    let stamps = 2 * entries.len();
    let queries = gpu.device.create_query_set(&wgpu::QuerySetDescriptor {
        label: Some("timing"),
        ty: wgpu::QueryType::Timestamp,
        count: stamps as u32,
    });
    let resolved = gpu.device.create_buffer(&wgpu::BufferDescriptor {
        label: Some("timing"),
        size: 8 * stamps as u64,
        usage: wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC,
        mapped_at_creation: false,
    });
    let mut encoder = gpu.encoder();
    for (i, entry) in (0..).zip(entries) {
        let label = format!("{}/{}", entry.scope, entry.kernel);
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor {
            label: Some(&label),
            timestamp_writes: Some(wgpu::ComputePassTimestampWrites {
                query_set: &queries,
                beginning_of_pass_write_index: Some(2 * i),
                end_of_pass_write_index: Some(2 * i + 1),
            }),
        });
        entry.dispatch(&mut pass);
    }
    encoder.resolve_query_set(&queries, 0..stamps as u32, &resolved, 0);
    gpu.queue.submit([encoder.finish()]);
    let words = Tensor { buffer: resolved, shape: vec![2 * stamps], label: "timing".into() };
    let bytes = read_now::<u32>(gpu, &words)?;
    Ok(bytes
        .as_chunks::<2>()
        .0
        .iter()
        .map(|&[lo, hi]| u64::from(hi) << 32 | u64::from(lo))
        .collect())
}

/// Time from the submission of some work, or from the end of the previous work, until its completion is reported.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Completion {
    /// Number of the submission, from 1.
    pub number: usize,
    /// Milliseconds. If two completions are reported together, the time counts from the submission.
    pub ms: f32,
    /// Whether completion was reported by a callback, not by [`Gpu::poll`].
    pub prompt: bool,
}

/// Number of submissions in flight that a user interface on the same device hardly notices.
const MAX_IN_FLIGHT: usize = 2;

/// Counts submissions that the device has not finished, so that a user interface can keep the queue short.
#[derive(Clone, Debug, Default)]
pub struct InFlight {
    unfinished: Arc<AtomicUsize>,
    total: usize,
    last: Arc<Mutex<Option<(Completion, Instant)>>>,
}

impl InFlight {
    /// Submissions that are not finished.
    pub fn count(&self) -> usize {
        self.unfinished.load(Ordering::Acquire)
    }

    /// Whether enough is submitted: more would make a window that shares the device wait for it.
    pub fn is_full(&self) -> bool {
        self.count() >= MAX_IN_FLIGHT
    }

    /// Submissions so far.
    pub fn total(&self) -> usize {
        self.total
    }

    /// Submits a command buffer and counts it until it is done.
    pub fn submit(&mut self, gpu: &Gpu, commands: wgpu::CommandBuffer) {
        self.total += 1;
        self.unfinished.fetch_add(1, Ordering::AcqRel);
        let (unfinished, last, polling) =
            (self.unfinished.clone(), self.last.clone(), gpu.polling());
        let (number, begin) = (self.total, Instant::now());
        gpu.queue.submit([commands]);
        gpu.queue.on_submitted_work_done(move || {
            let now = Instant::now();
            let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
            let prompt = !polling.load(Ordering::Relaxed);
            // The device computes one after the other.
            let begin = last.filter(|_| prompt).map_or(begin, |(_, end)| begin.max(end));
            let ms = now.duration_since(begin).as_secs_f32() * 1e3;
            *last = Some((Completion { number, ms, prompt }, now));
            unfinished.fetch_sub(1, Ordering::AcqRel);
        });
    }

    /// Waits until all submissions are finished; the time of the last one in milliseconds.
    ///
    /// # Errors
    /// When the device fails, or does not answer within `patience`.
    pub(crate) async fn finished(&self, gpu: &Gpu, patience: Duration) -> Result<f32, GpuError> {
        gpu.until(|| self.count() == 0, patience).await?;
        Ok(self.last().map_or(0.0, |completion| completion.ms))
    }

    /// The submission that finished last.
    pub fn last(&self) -> Option<Completion> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).map(|(completion, _)| completion)
    }
}
