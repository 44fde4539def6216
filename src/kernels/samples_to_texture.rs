//! Samples on a device as a texture, for a host that draws with the same device: nothing is read back.

use bytemuck::{Pod, Zeroable};

use crate::gpu::{Gpu, KernelSource, Shader};

const SHADER: Shader = shader!("samples_to_texture", consts: [LANES_X = LANES, LANES_Y = LANES]);

/// Lanes of a workgroup along each side.
const LANES: u32 = 8;

/// The uniform.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    width: u32,
    height: u32,
    channels: u32,
    first: u32,
}

/// The shader, for tests that check them all.
pub(super) const KERNEL: KernelSource =
    KernelSource { shader: SHADER, params_size: size_of::<Params>() };

/// Where a [`TextureWriter`] finds an image.
#[derive(Clone, Copy, Debug)]
pub struct Image<'a> {
    /// f32 in [-1, 1], `[B, C, height, width]`, from the beginning of the buffer; usage `STORAGE`.
    pub buffer: &'a wgpu::Buffer,
    /// `[B, C, height, width]`
    pub shape: [usize; 4],
    /// Which one of the batch.
    pub index: usize,
}

/// Writes images from a buffer to textures on a device.
pub struct TextureWriter {
    pipeline: wgpu::ComputePipeline,
}

impl TextureWriter {
    /// The format of the textures. Their bytes are sRGB values, as in a PNG file.
    pub const FORMAT: wgpu::TextureFormat = wgpu::TextureFormat::Rgba8Unorm;

    /// Compiles the shader.
    pub fn new(gpu: &Gpu) -> Self {
        let _watch = gpu.watch();
        let module = gpu.device.create_shader_module(wgpu::ShaderModuleDescriptor {
            label: Some(SHADER.name),
            source: wgpu::ShaderSource::Wgsl(SHADER.source.into()),
        });
        let pipeline = gpu.device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some(SHADER.name),
            layout: None,
            module: &module,
            entry_point: None,
            compilation_options: wgpu::PipelineCompilationOptions::default(),
            cache: None,
        });
        Self { pipeline }
    }

    /// A texture of `[height, width]` that [`TextureWriter::write`] can write and a shader can sample.
    pub fn texture(gpu: &Gpu, [height, width]: [usize; 2]) -> wgpu::Texture {
        let _watch = gpu.watch();
        gpu.device.create_texture(&wgpu::TextureDescriptor {
            label: Some("image"),
            size: wgpu::Extent3d {
                width: width as u32,
                height: height as u32,
                depth_or_array_layers: 1,
            },
            mip_level_count: 1,
            sample_count: 1,
            dimension: wgpu::TextureDimension::D2,
            format: Self::FORMAT,
            usage: wgpu::TextureUsages::STORAGE_BINDING
                | wgpu::TextureUsages::TEXTURE_BINDING
                | wgpu::TextureUsages::COPY_SRC,
            view_formats: &[],
        })
    }

    /// Adds one dispatch to `encoder` that writes an image to the upper left corner of a texture of
    /// [`TextureWriter::FORMAT`] with the usage `STORAGE_BINDING`. The first three channels are red, green and blue;
    /// with fewer than three the first is a grey.
    ///
    /// # Panics
    /// When there is no image of that index, or the buffer is too short for the shape.
    pub fn write(
        &self,
        gpu: &Gpu,
        encoder: &mut wgpu::CommandEncoder,
        image: Image<'_>,
        texture: &wgpu::Texture,
    ) {
        let [batch, channels, height, width] = image.shape;
        let first = image.index * channels * height * width;
        let elements = image.shape.iter().product::<usize>() as u64;
        assert!(image.index < batch, "image {} of {batch}", image.index);
        assert!(image.buffer.size() >= 4 * elements, "a buffer for {:?}", image.shape);
        let _watch = gpu.watch();
        let [width, height, channels, first] = [width, height, channels, first].map(|n| n as u32);
        let params = Params { width, height, channels, first };
        let uniform = gpu.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some(SHADER.name),
            size: size_of::<Params>() as u64,
            usage: wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        });
        gpu.queue.write_buffer(&uniform, 0, bytemuck::bytes_of(&params));
        let view = texture.create_view(&wgpu::TextureViewDescriptor::default());
        // The rest of the buffer may be larger than a binding can be.
        let samples = wgpu::BufferBinding {
            buffer: image.buffer,
            offset: 0,
            size: std::num::NonZeroU64::new(4 * elements),
        };
        let bindings = gpu.device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: Some(SHADER.name),
            layout: &self.pipeline.get_bind_group_layout(0),
            entries: &[
                wgpu::BindGroupEntry { binding: 0, resource: uniform.as_entire_binding() },
                wgpu::BindGroupEntry {
                    binding: 1,
                    resource: wgpu::BindingResource::Buffer(samples),
                },
                wgpu::BindGroupEntry {
                    binding: 2,
                    resource: wgpu::BindingResource::TextureView(&view),
                },
            ],
        });
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
        pass.set_pipeline(&self.pipeline);
        pass.set_bind_group(0, &bindings, &[]);
        pass.dispatch_workgroups(width.div_ceil(LANES), height.div_ceil(LANES), 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::testing::{gpu, spiky, tensor};

    /// Bytes of a texture whose rows are padded to 256.
    fn read(texture: &wgpu::Texture, [height, width]: [usize; 2]) -> Vec<u8> {
        let gpu = gpu();
        let row = (4 * width).next_multiple_of(256);
        let words = crate::gpu::Tensor::empty(gpu, "pixels", &[row * height / 4]);
        let mut encoder = gpu.encoder();
        encoder.copy_texture_to_buffer(
            texture.as_image_copy(),
            wgpu::TexelCopyBufferInfo {
                buffer: &words.buffer,
                layout: wgpu::TexelCopyBufferLayout {
                    offset: 0,
                    bytes_per_row: Some(row as u32),
                    rows_per_image: None,
                },
            },
            texture.size(),
        );
        gpu.queue.submit([encoder.finish()]);
        let words: Vec<u32> = crate::gpu::read_now(gpu, &words).unwrap();
        let bytes: Vec<u8> = bytemuck::pod_collect_to_vec(&words);
        bytes.chunks_exact(row).flat_map(|row| row[..4 * width].to_vec()).collect()
    }

    #[test]
    fn a_texture_has_the_pixels_of_the_second_image_and_no_others() {
        // Neither side is a multiple of a workgroup's, and some numbers lie beyond [-1, 1].
        let shape = [3, 4, 5, 19];
        let samples = spiky(shape.iter().product(), 7, 0.9);
        let one = 4 * 5 * 19;
        let buffer = tensor(&shape, &samples);
        let texture = TextureWriter::texture(gpu(), [5, 19]);
        let mut encoder = gpu().encoder();
        let image = Image { buffer: &buffer.buffer, shape, index: 1 };
        TextureWriter::new(gpu()).write(gpu(), &mut encoder, image, &texture);
        gpu().queue.submit([encoder.finish()]);
        let rgb = &samples[one..one + 3 * 5 * 19];
        for (i, pixel) in read(&texture, [5, 19]).as_chunks::<4>().0.iter().enumerate() {
            let want = [0, 1, 2].map(|c| {
                let value = f64::from(rgb[c * 5 * 19 + i]) * 127.5 + 127.5;
                value.clamp(0.0, 255.0)
            });
            for (got, want) in pixel.iter().zip(want) {
                // Drivers may round a value halfway between two bytes either way.
                assert!((f64::from(*got) - want).abs() <= 0.51, "pixel {i}: {pixel:?} for {want}");
            }
            assert_eq!(pixel[3], 255);
        }
    }

    #[test]
    fn one_channel_is_a_grey() {
        let shape = [1, 1, 1, 2];
        let buffer = tensor(&shape, &[-1.0_f32, 1.0]);
        let texture = TextureWriter::texture(gpu(), [1, 2]);
        let mut encoder = gpu().encoder();
        let image = Image { buffer: &buffer.buffer, shape, index: 0 };
        TextureWriter::new(gpu()).write(gpu(), &mut encoder, image, &texture);
        gpu().queue.submit([encoder.finish()]);
        assert_eq!(read(&texture, [1, 2]), [0, 0, 0, 255, 255, 255, 255, 255]);
    }
}
