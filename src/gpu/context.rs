//! One device with its queue and its compiled pipelines.
//!
//! It requests the limits that WebGPU guarantees and raises only the two that limit the size of
//! buffers, so that what runs natively also runs in a browser.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use web_time::Instant;

use super::faults::Faults;
use super::pipelines::{Pipelines, Rehearsal};
use super::{GpuError, Profile, Tile, Tiling};
use crate::platform::{self, adapter_name, may_have_gpu};

/// Choices that differ between the product, its tests and its benchmarks.
#[derive(Clone, Debug, Default)]
pub struct GpuOptions {
    /// Kernel family; by default `DIFFMOE_KERNELS=gpu|software`, else what suits the adapter.
    pub profile: Option<Profile>,
    /// Tile of all products; by default `DIFFMOE_TILE=small|large`, else what suits the size of each ([`Tiling`]).
    pub tile: Option<Tile>,
    /// Upper bound in bytes for one storage binding, below what the device offers: lets tests split small weights.
    pub binding_limit: Option<u64>,
    /// Fill new tensors with NaN, so that a value that no kernel wrote cannot pass for a zero.
    pub poison: bool,
    /// Panic where the device refuses a call, instead of remembering it: for tests.
    pub panic_on_error: bool,
    /// What a test breaks.
    #[cfg(test)]
    pub(crate) sabotage: Sabotage,
}

/// What a test breaks of a device.
#[cfg(test)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sabotage {
    /// From the name and text of a shader to another text.
    pub(crate) shader: Option<fn(&str, &str) -> Option<String>>,
    /// The number of the tensor for which there is no memory.
    pub(crate) refused: Option<u64>,
}

/// Longest wait for an adapter or a device.
const PATIENCE: Duration = Duration::from_secs(10);

/// A device, ready to compute.
pub struct Gpu {
    /// The device.
    pub device: wgpu::Device,
    /// Its queue.
    pub queue: wgpu::Queue,
    /// Name, driver and kind of the adapter behind the device.
    pub info: wgpu::AdapterInfo,
    /// Which family of kernels suits the adapter.
    pub profile: Profile,
    /// Which tile each product gets.
    pub tiling: Tiling,
    /// Whether the tiling was asked for, so that nobody has to look for a better one.
    pub(crate) tiling_is_fixed: bool,
    /// Largest storage binding in bytes that weights and activations may use.
    pub binding_limit: u64,
    /// Whether new tensors are filled with NaN.
    pub(super) poison: bool,
    pub(super) pipelines: Arc<Pipelines>,
    pub(super) faults: Arc<Faults>,
    /// Whether the device belongs to a host that uses it too.
    pub(super) is_hosted: bool,
    /// Whether news of the device is being collected right now: it may be old then.
    pub(super) polling: Arc<AtomicBool>,
    /// Bytes of all tensors that were ever made.
    pub(super) allocated: AtomicU64,
    /// `None` on a device that computes.
    pub(super) rehearsal: Option<Rehearsal>,
    #[cfg(test)]
    pub(super) sabotage: Sabotage,
    /// Tensors so far.
    #[cfg(test)]
    pub(super) tensors: AtomicU64,
}

impl Gpu {
    /// A device without a window: a real GPU if there is one, else a software adapter.
    /// `DIFFMOE_KERNELS` overrides the kernel family.
    ///
    /// # Errors
    /// When there is no adapter, or it lacks what WebGPU guarantees.
    #[cfg(feature = "blocking")]
    pub fn headless() -> Result<Self, GpuError> {
        Self::headless_with(GpuOptions::default())
    }

    /// As [`Gpu::headless`], with choices.
    ///
    /// # Errors
    /// As [`Gpu::headless`].
    #[cfg(feature = "blocking")]
    pub fn headless_with(options: GpuOptions) -> Result<Self, GpuError> {
        pollster::block_on(Self::headless_async(options))
    }

    /// As [`Gpu::headless_with`], for callers that must not block (the browser).
    ///
    /// # Errors
    /// When there is no adapter, it lacks what WebGPU guarantees, or does not answer within ten seconds.
    pub async fn headless_async(options: GpuOptions) -> Result<Self, GpuError> {
        let (device, queue) = answer("the graphics driver", PATIENCE, Self::request).await??;
        let mut gpu = Self::owned(device, queue, &options);
        if gpu.info.name.is_empty() {
            // Browsers keep the name to themselves.
            let name = answer("the browser", PATIENCE, adapter_name).await.ok().flatten();
            gpu.info.name = name.unwrap_or_else(|| "WebGPU adapter".into());
        }
        Ok(gpu)
    }

    /// A device of the preferred adapter.
    async fn request() -> Result<(wgpu::Device, wgpu::Queue), GpuError> {
        if !may_have_gpu() {
            return Err(GpuError::NoAdapter("this is not a browser".into()));
        }
        let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle());
        let adapter = instance
            .request_adapter(&wgpu::RequestAdapterOptions {
                power_preference: wgpu::PowerPreference::HighPerformance,
                ..Default::default()
            })
            .await
            .map_err(|error| {
                GpuError::NoAdapter(match error {
                    // wgpu lists what each of its backends thinks of that.
                    wgpu::RequestAdapterError::NotFound { .. } => {
                        "there is no driver and no WebGPU".into()
                    }
                    other => other.to_string(),
                })
            })?;
        let info = adapter.get_info();
        if info.backend == wgpu::Backend::Noop {
            // It accepts all work and does none: every test would "pass" on zeros.
            return Err(GpuError::NoAdapter(
                "the only adapter is a stub that computes nothing".into(),
            ));
        }
        adapter
            .request_device(&Self::device_descriptor(&adapter))
            .await
            .map_err(|e| GpuError::NoDevice { adapter: info.name, reason: e.to_string() })
    }

    /// The same device with the kernels of a profile.
    #[must_use]
    pub(crate) fn with_profile(&self, profile: Profile) -> Self {
        Self {
            profile,
            tiling: self.tiling,
            tiling_is_fixed: self.tiling_is_fixed,
            device: self.device.clone(),
            queue: self.queue.clone(),
            info: self.info.clone(),
            binding_limit: self.binding_limit,
            poison: self.poison,
            pipelines: self.pipelines.clone(),
            faults: self.faults.clone(),
            is_hosted: self.is_hosted,
            polling: self.polling.clone(),
            allocated: self.allocated_bytes().into(),
            rehearsal: None,
            #[cfg(test)]
            sabotage: self.sabotage,
            #[cfg(test)]
            tensors: AtomicU64::new(0),
        }
    }

    /// The same device with another choice of tiles.
    #[must_use]
    pub(crate) fn with_tiling(&self, tiling: Tiling) -> Self {
        Self { tiling, ..self.with_profile(self.profile) }
    }

    /// What to ask of an adapter; also for a host that makes the device itself and hands it to [`Gpu::on`].
    pub fn device_descriptor(adapter: &wgpu::Adapter) -> wgpu::DeviceDescriptor<'static> {
        let offered = adapter.limits();
        wgpu::DeviceDescriptor {
            label: Some("diffmoe"),
            required_features: adapter.features() & wgpu::Features::TIMESTAMP_QUERY,
            required_limits: wgpu::Limits {
                max_buffer_size: offered.max_buffer_size,
                max_storage_buffer_binding_size: offered.max_storage_buffer_binding_size,
                ..wgpu::Limits::default()
            },
            ..Default::default()
        }
    }

    /// The limits that the kernels rely on: those of every WebGPU device where shaders compute, and the lowest that
    /// wgpu knows where they do not. No feature is required; `TIMESTAMP_QUERY` is used where it is there.
    pub fn required_limits() -> wgpu::Limits {
        let guaranteed = wgpu::Limits::default();
        wgpu::Limits {
            max_storage_buffers_per_shader_stage: guaranteed.max_storage_buffers_per_shader_stage,
            max_storage_textures_per_shader_stage: 1,
            max_storage_buffer_binding_size: guaranteed.max_storage_buffer_binding_size,
            max_compute_workgroup_storage_size: guaranteed.max_compute_workgroup_storage_size,
            max_compute_invocations_per_workgroup: guaranteed.max_compute_invocations_per_workgroup,
            max_compute_workgroup_size_x: guaranteed.max_compute_workgroup_size_x,
            max_compute_workgroup_size_y: guaranteed.max_compute_workgroup_size_y,
            max_compute_workgroup_size_z: 1,
            max_compute_workgroups_per_dimension: guaranteed.max_compute_workgroups_per_dimension,
            ..wgpu::Limits::downlevel_webgl2_defaults()
        }
    }

    /// Computes on a device of the host, in addition to the host's own work.
    ///
    /// The host's handlers for uncaptured errors and for the loss of the device are not replaced: the library uses the
    /// device inside error scopes, and a caught error is returned by the call that caused it. A lost device is noticed
    /// when the results of a step do not arrive; a host that learns of it earlier can call [`Gpu::report`].
    ///
    /// Work is submitted to `queue` in small pieces, in order with the host's. [`Gpu::poll`], which each
    /// `advance` calls, polls the device and with it runs the host's callbacks that are due.
    ///
    /// # Errors
    /// When the device's limits are below [`Gpu::required_limits`], or it computes nothing (wgpu's noop backend).
    pub fn on(device: &wgpu::Device, queue: &wgpu::Queue) -> Result<Arc<Self>, GpuError> {
        Self::on_with(device, queue, &GpuOptions::default())
    }

    /// As [`Gpu::on`], with choices; [`GpuOptions::panic_on_error`] has no effect on a host's device.
    ///
    /// # Errors
    /// As [`Gpu::on`].
    pub fn on_with(
        device: &wgpu::Device,
        queue: &wgpu::Queue,
        options: &GpuOptions,
    ) -> Result<Arc<Self>, GpuError> {
        let gpu = Self::wrap(device.clone(), queue.clone(), true, options);
        if gpu.info.backend == wgpu::Backend::Noop {
            return Err(GpuError::NoAdapter("the device is a stub that computes nothing".into()));
        }
        let mut missing = Vec::new();
        let note = |name: &str, needed, offered| {
            missing.push(format!("{name} is {offered}, but the kernels need {needed}"));
        };
        Self::required_limits().check_limits_with_fail_fn(&device.limits(), false, note);
        if missing.is_empty() {
            return Ok(Arc::new(gpu));
        }
        Err(GpuError::NoDevice { adapter: gpu.info.name, reason: missing.join("; ") })
    }

    /// A device of our own: whatever it reports without being asked is about our work.
    fn owned(device: wgpu::Device, queue: wgpu::Queue, options: &GpuOptions) -> Self {
        let gpu = Self::wrap(device, queue, false, options);
        let seen = gpu.faults.clone();
        let panic_on_error = options.panic_on_error;
        gpu.device.on_uncaptured_error(Arc::new(move |error: wgpu::Error| {
            assert!(!panic_on_error, "the device reported an error: {error}");
            seen.record(GpuError::Refused(error.to_string()));
        }));
        let seen = gpu.faults.clone();
        // Calls on a lost device fail in silence: this is the only word that we get.
        gpu.device.set_device_lost_callback(move |reason, message| {
            seen.record(GpuError::Lost(format!("{message} ({reason:?})")));
        });
        gpu
    }

    fn wrap(
        device: wgpu::Device,
        queue: wgpu::Queue,
        is_hosted: bool,
        options: &GpuOptions,
    ) -> Self {
        let (info, limits) = (device.adapter_info(), device.limits());
        let offered = limits.max_storage_buffer_binding_size.min(limits.max_buffer_size);
        let tiling = options.tile.map(Tiling::Only).or_else(Tiling::wanted);
        Self {
            profile: options.profile.unwrap_or_else(|| Profile::suitable(&info)),
            tiling: tiling.unwrap_or_default(),
            tiling_is_fixed: tiling.is_some(),
            binding_limit: options.binding_limit.map_or(offered, |limit| limit.min(offered)),
            poison: options.poison,
            pipelines: Arc::default(),
            rehearsal: None,
            polling: Arc::default(),
            allocated: AtomicU64::new(0),
            faults: Arc::default(),
            is_hosted,
            device,
            queue,
            info,
            #[cfg(test)]
            sabotage: options.sabotage,
            #[cfg(test)]
            tensors: AtomicU64::new(0),
        }
    }

    /// The same device with something broken, and none of its tensors counted.
    #[cfg(test)]
    pub(crate) fn sabotaged(&self, sabotage: Sabotage) -> Self {
        Self { sabotage, ..self.with_profile(self.profile) }
    }

    /// Tensors that were made so far.
    #[cfg(test)]
    pub(crate) fn tensors(&self) -> u64 {
        self.tensors.load(Ordering::Relaxed)
    }

    /// Bytes of all tensors that were made so far, those that are gone by now included: a measure of what something
    /// takes is the difference between before and after.
    pub fn allocated_bytes(&self) -> u64 {
        self.allocated.load(Ordering::Relaxed)
    }

    /// The first thing that went wrong on the device since it was made, if anything did.
    pub fn failure(&self) -> Option<GpuError> {
        let failure = self.faults.first();
        if matches!(failure, Some(GpuError::Refused(_))) {
            // A lost device refuses everything, and says that it is lost when it is asked.
            self.poll();
            return self.faults.first();
        }
        failure
    }

    /// Keeps a failure that was noticed elsewhere, unless there was one before.
    pub fn report(&self, error: GpuError) {
        self.faults.record(error);
    }

    /// Lets finished work report itself. Never waits; does nothing in a browser, where the event loop does it.
    pub fn poll(&self) {
        self.polling.store(true, Ordering::Relaxed);
        let polled = self.device.poll(wgpu::PollType::Poll);
        self.polling.store(false, Ordering::Relaxed);
        if let Err(error) = polled {
            self.faults.record(GpuError::Lost(error.to_string()));
        }
    }

    /// Waits until something has come to pass that work on the device reports; other tasks go on meanwhile.
    ///
    /// # Errors
    /// When the device fails, or nothing is reported within `patience`.
    pub(crate) async fn until(
        &self,
        is_done: impl Fn() -> bool,
        patience: Duration,
    ) -> Result<(), GpuError> {
        let begin = Instant::now();
        while !is_done() {
            self.poll();
            if let Some(error) = self.failure() {
                return Err(error);
            }
            if begin.elapsed() > patience {
                return Err(GpuError::NoAnswer(self.info.name.clone(), patience.as_secs()));
            }
            platform::pause(Duration::from_micros(100)).await;
        }
        Ok(())
    }

    /// Whether a call-back runs because [`Gpu::poll`] asked, some time after the event.
    pub(super) fn polling(&self) -> Arc<AtomicBool> {
        self.polling.clone()
    }

    /// Waits until all submitted work is done and has reported itself. Not for user interfaces.
    ///
    /// # Errors
    /// When the device failed at any time before.
    pub fn wait(&self) -> Result<(), GpuError> {
        if let Err(error) = self.device.poll(wgpu::PollType::wait_indefinitely()) {
            self.faults.record(GpuError::Lost(error.to_string()));
        }
        self.failure().map_or(Ok(()), Err)
    }

    /// Whether passes can be timed on the device.
    pub fn has_timestamps(&self) -> bool {
        self.device.features().contains(wgpu::Features::TIMESTAMP_QUERY)
    }

    /// An empty list of commands.
    pub fn encoder(&self) -> wgpu::CommandEncoder {
        self.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default())
    }

    /// Submits pending writes to tensors and waits for them, which frees the copies in host memory.
    ///
    /// # Errors
    /// As [`Gpu::wait`].
    pub fn flush(&self) -> Result<(), GpuError> {
        self.queue.submit([]);
        self.wait()
    }

    /// Whether the adapter computes on the processor, whatever kernels were chosen for it.
    pub fn is_software(&self) -> bool {
        self.info.device_type == wgpu::DeviceType::Cpu
    }

    /// Device and kernel family in one line, for display.
    pub fn describe(&self) -> String {
        format!("{} ({:?}, {})", self.info.name, self.info.backend, self.profile.describe())
    }
}

/// What comes of a request to `whom`, unless it takes longer than `limit`.
///
/// # Errors
/// When there is no answer by then.
pub(crate) async fn answer<T, F>(
    whom: &str,
    limit: Duration,
    request: impl FnOnce() -> F + Send + 'static,
) -> Result<T, GpuError>
where
    T: Send + 'static,
    F: Future<Output = T>,
{
    let answer = platform::within(limit, request).await;
    answer.ok_or_else(|| GpuError::NoAnswer(whom.to_owned(), limit.as_secs()))
}
