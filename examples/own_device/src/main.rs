//! A winit window that renders and computes with its own device: the image is written to a texture on the device and
//! painted while it is being sampled; nothing is read back for display.
//!
//! `cargo run --release -p own_device -- [MODEL.safetensors]`

use std::error::Error;
use std::path::Path;
use std::sync::Arc;

use diffmoe::checkpoint::Checkpoint;
use diffmoe::engine::Progress;
use diffmoe::gpu::Gpu;
use diffmoe::kernels::TextureWriter;
use diffmoe::pipeline::{Pipeline, Run, Settings};
use diffmoe::wgpu;
use winit::application::ApplicationHandler;
use winit::event::WindowEvent;
use winit::event_loop::{ActiveEventLoop, ControlFlow, EventLoop, OwnedDisplayHandle};
use winit::window::{Window, WindowId};

/// A model of this repository that draws emoji of 64 × 64 pixels.
const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../assets/emoji.safetensors");

/// Kernels that are submitted between two frames: few enough for the window to stay smooth.
const BUDGET: usize = 16;

/// A triangle over the whole window that shows the texture, each pixel as a square.
const PAINT: &str = "
@group(0) @binding(0) var image: texture_2d<f32>;

struct Corner { @builtin(position) at: vec4<f32>, @location(0) uv: vec2<f32> }

@vertex
fn corner(@builtin(vertex_index) i: u32) -> Corner {
    let uv = vec2(f32((i << 1u) & 2u), f32(i & 2u));
    return Corner(vec4(uv.x * 2.0 - 1.0, 1.0 - uv.y * 2.0, 0.0, 1.0), uv);
}

@fragment
fn pixel(corner: Corner) -> @location(0) vec4<f32> {
    let size = vec2<f32>(textureDimensions(image));
    return textureLoad(image, vec2<u32>(min(corner.uv, vec2(0.9999)) * size), 0);
}";

fn main() -> Result<(), Box<dyn Error>> {
    let model = std::env::args().nth(1).unwrap_or_else(|| MODEL.into());
    let checkpoint = Checkpoint::open(Path::new(&model))?;
    if !checkpoint.config().makes_pixels() {
        return Err("this example needs a model that generates pixels".into());
    }
    let events = EventLoop::new()?;
    events.set_control_flow(ControlFlow::Poll);
    let display = events.owned_display_handle();
    let mut app = App { checkpoint, display, view: None, error: None };
    events.run_app(&mut app)?;
    app.error.map_or(Ok(()), Err)
}

struct App {
    checkpoint: Checkpoint,
    display: OwnedDisplayHandle,
    view: Option<View>,
    error: Option<Box<dyn Error>>,
}

impl App {
    /// Ends the program with an error.
    fn check(&mut self, events: &ActiveEventLoop, outcome: Result<(), Box<dyn Error>>) {
        if let Err(error) = outcome {
            self.error = Some(error);
            events.exit();
        }
    }
}

impl ApplicationHandler for App {
    fn resumed(&mut self, events: &ActiveEventLoop) {
        if self.view.is_none() {
            let opened = View::open(events, self.display.clone(), &self.checkpoint);
            let outcome = opened.map(|view| self.view = Some(view));
            self.check(events, outcome);
        }
    }

    fn window_event(&mut self, events: &ActiveEventLoop, _: WindowId, event: WindowEvent) {
        let Some(view) = &mut self.view else { return };
        match event {
            WindowEvent::CloseRequested => events.exit(),
            WindowEvent::Resized(_) => view.configure(),
            WindowEvent::RedrawRequested => {
                let outcome = view.frame();
                self.check(events, outcome);
            }
            _ => {}
        }
    }
}

/// The window, its device, and the run that computes on it.
struct View {
    window: Arc<Window>,
    surface: wgpu::Surface<'static>,
    config: wgpu::SurfaceConfiguration,
    gpu: Arc<Gpu>,
    run: Run,
    writer: TextureWriter,
    image: wgpu::Texture,
    paint: wgpu::RenderPipeline,
    bindings: wgpu::BindGroup,
}

impl View {
    fn open(
        events: &ActiveEventLoop,
        display: OwnedDisplayHandle,
        checkpoint: &Checkpoint,
    ) -> Result<Self, Box<dyn Error>> {
        let attributes = Window::default_attributes().with_title("own device");
        let window = Arc::new(events.create_window(attributes)?);
        let descriptor = wgpu::InstanceDescriptor::new_with_display_handle(Box::new(display));
        let instance = wgpu::Instance::new(descriptor);
        let surface = instance.create_surface(window.clone())?;
        let adapter = pollster::block_on(instance.request_adapter(&wgpu::RequestAdapterOptions {
            compatible_surface: Some(&surface),
            ..Default::default()
        }))?;
        // The host's device: it requests the limits of the kernels in addition to its own.
        let (device, queue) =
            pollster::block_on(adapter.request_device(&Gpu::device_descriptor(&adapter)))?;
        let size = window.inner_size();
        let mut config = surface
            .get_default_config(&adapter, size.width.max(1), size.height.max(1))
            .ok_or("the adapter cannot present to this window")?;
        // The texture holds sRGB values: they go to the screen as they are.
        let formats = surface.get_capabilities(&adapter).formats;
        config.format = formats.into_iter().find(|f| !f.is_srgb()).unwrap_or(config.format);
        surface.configure(&device, &config);

        let gpu = Gpu::on(&device, &queue)?;
        let pipeline = Pipeline::load(&gpu, checkpoint)?;
        let run = pipeline.start(Settings::of(pipeline.config()))?;
        let image = TextureWriter::texture(&gpu, pipeline.config().input_size);
        let (paint, bindings) = painter(&device, config.format, &image);
        let writer = TextureWriter::new(&gpu);
        window.request_redraw();
        Ok(Self { window, surface, config, gpu, run, writer, image, paint, bindings })
    }

    fn configure(&mut self) {
        let size = self.window.inner_size();
        (self.config.width, self.config.height) = (size.width.max(1), size.height.max(1));
        self.surface.configure(&self.gpu.device, &self.config);
        self.window.request_redraw();
    }

    /// Submits a little of the run, then paints what there is of the image.
    fn frame(&mut self) -> Result<(), Box<dyn Error>> {
        let progress = self.run.advance(BUDGET)?;
        let (wgpu::CurrentSurfaceTexture::Success(frame)
        | wgpu::CurrentSurfaceTexture::Suboptimal(frame)) = self.surface.get_current_texture()
        else {
            self.configure();
            return Ok(());
        };
        let mut encoder = self.gpu.encoder();
        if let Some(samples) = self.run.gpu_samples() {
            self.writer.write(&self.gpu, &mut encoder, samples.image(0), &self.image);
        }
        let view = frame.texture.create_view(&wgpu::TextureViewDescriptor::default());
        let mut pass = encoder.begin_render_pass(&wgpu::RenderPassDescriptor {
            color_attachments: &[Some(wgpu::RenderPassColorAttachment {
                view: &view,
                depth_slice: None,
                resolve_target: None,
                ops: wgpu::Operations::default(),
            })],
            ..Default::default()
        });
        pass.set_pipeline(&self.paint);
        pass.set_bind_group(0, &self.bindings, &[]);
        pass.draw(0..3, 0..1);
        drop(pass);
        self.gpu.queue.submit([encoder.finish()]);
        self.gpu.queue.present(frame);
        if progress != Progress::Done {
            self.window.request_redraw();
        }
        Ok(())
    }
}

/// What paints a texture over a whole window.
fn painter(
    device: &wgpu::Device,
    format: wgpu::TextureFormat,
    image: &wgpu::Texture,
) -> (wgpu::RenderPipeline, wgpu::BindGroup) {
    let module = device.create_shader_module(wgpu::ShaderModuleDescriptor {
        label: Some("paint"),
        source: wgpu::ShaderSource::Wgsl(PAINT.into()),
    });
    let pipeline = device.create_render_pipeline(&wgpu::RenderPipelineDescriptor {
        label: Some("paint"),
        layout: None,
        vertex: wgpu::VertexState {
            module: &module,
            entry_point: None,
            compilation_options: wgpu::PipelineCompilationOptions::default(),
            buffers: &[],
        },
        primitive: wgpu::PrimitiveState::default(),
        depth_stencil: None,
        multisample: wgpu::MultisampleState::default(),
        fragment: Some(wgpu::FragmentState {
            module: &module,
            entry_point: None,
            compilation_options: wgpu::PipelineCompilationOptions::default(),
            targets: &[Some(format.into())],
        }),
        multiview_mask: None,
        cache: None,
    });
    let bindings = device.create_bind_group(&wgpu::BindGroupDescriptor {
        label: Some("paint"),
        layout: &pipeline.get_bind_group_layout(0),
        entries: &[wgpu::BindGroupEntry {
            binding: 0,
            resource: wgpu::BindingResource::TextureView(
                &image.create_view(&wgpu::TextureViewDescriptor::default()),
            ),
        }],
    });
    (pipeline, bindings)
}
