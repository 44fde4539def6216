//! A host's device: its handlers stay, our errors do not reach them, and results stay on the device.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail like tests")]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use diffmoe::checkpoint::Checkpoint;
use diffmoe::engine::{EngineError, Progress, WeightChoice};
use diffmoe::gpu::{Gpu, GpuError};
use diffmoe::kernels::TextureWriter;
use diffmoe::pipeline::{Backend, Pipeline, Settings};
use diffmoe::{pixels, wgpu};

const CONFIG: &str = r#"{"kind":"diffmoe","t_kind":"flow","space":"pixels","params":{"input_size":[8,16],
    "in_channels":3,"num_classes":4,"patch_size":2,"depth":2,"hidden_size":32,"num_heads":2,
    "MoE_config":{"num_experts":4,"capacity":1}}}"#;

/// The device of a host that counts the errors that nobody has caught.
struct Host {
    device: wgpu::Device,
    queue: wgpu::Queue,
    uncaptured: Arc<AtomicUsize>,
}

impl Host {
    fn new(limits: wgpu::Limits) -> Self {
        let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle());
        let adapter =
            pollster::block_on(instance.request_adapter(&wgpu::RequestAdapterOptions::default()));
        let adapter = adapter.expect("these tests need a GPU or Mesa's lavapipe");
        let descriptor = wgpu::DeviceDescriptor { required_limits: limits, ..Default::default() };
        let (device, queue) = pollster::block_on(adapter.request_device(&descriptor)).unwrap();
        let uncaptured = Arc::new(AtomicUsize::new(0));
        let seen = uncaptured.clone();
        device.on_uncaptured_error(Arc::new(move |_| {
            seen.fetch_add(1, Ordering::Relaxed);
        }));
        Self { device, queue, uncaptured }
    }

    fn gpu(&self) -> Arc<Gpu> {
        Gpu::on(&self.device, &self.queue).unwrap()
    }

    fn uncaptured(&self) -> usize {
        self.uncaptured.load(Ordering::Relaxed)
    }

    /// Asks for more than any device has.
    fn overreach(&self) {
        let _ = self.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("too large"),
            size: self.device.limits().max_buffer_size + 4,
            usage: wgpu::BufferUsages::STORAGE,
            mapped_at_creation: false,
        });
    }
}

fn settings(pipeline: &Pipeline) -> Settings {
    let mut settings = Settings::of(pipeline.config());
    settings.labels = vec![vec![1, 3]];
    let sampling = &mut settings.sampling;
    (sampling.steps, sampling.guidance, sampling.seed) = (3, 1.5, 5);
    settings
}

#[test]
fn the_host_keeps_its_error_handler() {
    let host = Host::new(Gpu::required_limits());
    let gpu = host.gpu();
    let refused = pollster::block_on(gpu.error_scope(async { host.overreach() }));
    assert!(matches!(refused, Err(GpuError::Refused(_))), "{refused:?}");
    assert_eq!((gpu.failure(), host.uncaptured()), (None, 0));
    {
        let _watch = gpu.watch();
        host.overreach();
    }
    assert!(matches!(gpu.failure(), Some(GpuError::Refused(_))), "{:?}", gpu.failure());
    assert_eq!(host.uncaptured(), 0);
    host.overreach();
    assert_eq!(host.uncaptured(), 1, "the host hears of its own errors");
}

#[test]
fn too_small_limits_are_named() {
    let limits = wgpu::Limits {
        max_compute_invocations_per_workgroup: 128,
        max_storage_buffers_per_shader_stage: 4,
        ..Gpu::required_limits()
    };
    let host = Host::new(limits);
    let text = Gpu::on(&host.device, &host.queue).err().unwrap().to_string();
    for part in [
        "max_compute_invocations_per_workgroup is 128, but the kernels need 256",
        "max_storage_buffers_per_shader_stage is 4, but the kernels need 8",
    ] {
        assert!(text.contains(part), "{text}");
    }
}

#[test]
fn samples_become_a_texture_of_the_host_between_two_slices() {
    let checkpoint = Checkpoint::random(CONFIG, 3).unwrap();
    let host = Host::new(Gpu::required_limits());
    let gpu = host.gpu();
    let pipeline = Pipeline::load(&gpu, &checkpoint).unwrap();
    let mut run = pipeline.start(settings(&pipeline)).unwrap();
    let size = pipeline.config().input_size;
    let (writer, texture) = (TextureWriter::new(&gpu), TextureWriter::texture(&gpu, size));
    let paint = |run: &diffmoe::pipeline::Run| {
        let mut encoder =
            host.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        let samples = run.gpu_samples().unwrap();
        assert_eq!(samples.shape, [2, 3, 8, 16]);
        writer.write(&gpu, &mut encoder, samples.image(1), &texture);
        host.queue.submit([encoder.finish()]);
    };
    let mut slices = 0;
    while run.advance(5).unwrap() != Progress::Done {
        paint(&run);
        slices += 1;
    }
    assert!(slices > 10, "{slices} slices");
    paint(&run);
    let want = pixels::rgba(&run.latent()[3 * 8 * 16..], size);
    let got = bytes(&host, &texture);
    assert_eq!(got.len(), want.len());
    let off = got.iter().zip(&want).map(|(a, b)| a.abs_diff(*b)).max().unwrap();
    assert!(off <= 1, "off by {off}");
    assert!(want.iter().collect::<std::collections::BTreeSet<_>>().len() > 20, "a blank image");
    // A device of its own computes the same.
    let own = Pipeline::open(&checkpoint, Backend::Gpu, WeightChoice::Auto).unwrap();
    let own = own.start(settings(&own)).unwrap().finish(|_| {}).unwrap();
    assert_eq!(own.samples, run.latent());
    assert_eq!((gpu.failure(), host.uncaptured()), (None, 0));
}

/// Bytes of a texture whose rows are a multiple of 256 bytes or padded to it.
fn bytes(host: &Host, texture: &wgpu::Texture) -> Vec<u8> {
    let (row, padded) = (4 * texture.width(), (4 * texture.width()).next_multiple_of(256));
    let buffer = host.device.create_buffer(&wgpu::BufferDescriptor {
        label: None,
        size: u64::from(padded * texture.height()),
        usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
        mapped_at_creation: false,
    });
    let mut encoder =
        host.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
    let layout = wgpu::TexelCopyBufferLayout {
        offset: 0,
        bytes_per_row: Some(padded),
        rows_per_image: None,
    };
    let to = wgpu::TexelCopyBufferInfo { buffer: &buffer, layout };
    encoder.copy_texture_to_buffer(texture.as_image_copy(), to, texture.size());
    host.queue.submit([encoder.finish()]);
    buffer.map_async(wgpu::MapMode::Read, .., Result::unwrap);
    host.device.poll(wgpu::PollType::wait_indefinitely()).unwrap();
    let view = buffer.get_mapped_range(..).unwrap();
    view.chunks_exact(padded as usize).flat_map(|line| line[..row as usize].to_vec()).collect()
}

#[test]
fn the_loss_of_the_hosts_device_is_an_error_of_the_run() {
    let checkpoint = Checkpoint::random(CONFIG, 3).unwrap();
    let host = Host::new(Gpu::required_limits());
    let pipeline = Pipeline::load(&host.gpu(), &checkpoint).unwrap();
    let mut run = pipeline.start(settings(&pipeline)).unwrap();
    run.advance(5).unwrap();
    host.device.destroy();
    let lost = (0..10_000).find_map(|_| run.advance(5).err());
    assert!(lost.as_ref().is_some_and(EngineError::needs_new_device), "{lost:?}");
    assert_eq!(run.state().steps, 0, "the run can go on elsewhere from here");
}

#[test]
fn the_future_of_loading_can_be_sent_to_another_thread() {
    fn is_send<T: Send>(value: T) -> T {
        value
    }
    let checkpoint = Checkpoint::random(CONFIG, 3).unwrap();
    let host = Host::new(Gpu::required_limits());
    let gpu = host.gpu();
    let pipeline = pollster::block_on(is_send(Pipeline::load_async(&gpu, &checkpoint))).unwrap();
    let run = pollster::block_on(is_send(pipeline.start_async(settings(&pipeline))));
    assert_eq!(run.unwrap().finished_steps(), 0);
}
