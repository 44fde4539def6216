//! A buffer on the device with a shape and a name.

use super::Gpu;

pub use bytemuck::Pod;

/// Numbers on the device, row-major: f32, or u32 that hold indices, bit masks or packed f16 pairs.
#[derive(Clone, Debug)]
pub struct Tensor {
    /// The memory. WebGPU forbids empty bindings, so an empty tensor still has four bytes.
    pub buffer: wgpu::Buffer,
    /// Extent of each dimension, in elements of four bytes.
    pub shape: Vec<usize>,
    /// What it holds, for display and for graphics debuggers.
    pub label: String,
}

/// Every element is four bytes: f32, u32, or two packed f16.
const ELEMENT: u64 = 4;

impl Tensor {
    /// A tensor whose contents a kernel will write: zeros, or NaN where [`super::GpuOptions::poison`] is set.
    ///
    /// # Panics
    /// When the tensor is larger than a storage binding may be; callers check sizes first.
    pub fn empty(gpu: &Gpu, label: impl Into<String>, shape: &[usize]) -> Self {
        let tensor = Self::allocate(gpu, label.into(), shape);
        if gpu.poison {
            let poison = vec![f32::NAN; tensor.len()];
            gpu.queue.write_buffer(&tensor.buffer, 0, bytemuck::cast_slice(&poison));
        }
        tensor
    }

    /// A tensor that holds `values`.
    ///
    /// # Panics
    /// When the number of values is not the product of the shape.
    pub fn upload<T: Pod>(
        gpu: &Gpu,
        label: impl Into<String>,
        shape: &[usize],
        values: &[T],
    ) -> Self {
        let tensor = Self::allocate(gpu, label.into(), shape);
        tensor.write(gpu, values);
        tensor
    }

    /// Replaces all values, in order with the work on the queue.
    ///
    /// # Panics
    /// When the number of values is not the number of elements.
    pub fn write<T: Pod>(&self, gpu: &Gpu, values: &[T]) {
        assert_eq!(size_of::<T>() as u64, ELEMENT, "{}: elements are four bytes", self.label);
        assert_eq!(values.len(), self.len(), "{}: {:?}", self.label, self.shape);
        if !values.is_empty() && !gpu.is_rehearsal() {
            gpu.queue.write_buffer(&self.buffer, 0, bytemuck::cast_slice(values));
        }
    }

    /// Replaces the values from element `start` on.
    ///
    /// # Panics
    /// When they do not fit.
    pub fn write_at<T: Pod>(&self, gpu: &Gpu, start: usize, values: &[T]) {
        assert_eq!(size_of::<T>() as u64, ELEMENT, "{}: elements are four bytes", self.label);
        assert!(start + values.len() <= self.len(), "{}: {:?}", self.label, self.shape);
        if !gpu.is_rehearsal() {
            let first = start as u64 * ELEMENT;
            gpu.queue.write_buffer(&self.buffer, first, bytemuck::cast_slice(values));
        }
    }

    /// The beginning of the same memory, as a tensor of another shape.
    ///
    /// # Panics
    /// When that shape has more elements.
    #[must_use]
    pub fn part(&self, shape: &[usize]) -> Self {
        let part = Self { shape: shape.to_vec(), ..self.clone() };
        assert!(part.len() <= self.len(), "{}: {shape:?} of {:?}", self.label, self.shape);
        part
    }

    fn allocate(gpu: &Gpu, label: String, shape: &[usize]) -> Self {
        if let Some(rehearsal) = &gpu.rehearsal {
            return Self { buffer: rehearsal.buffer.clone(), shape: shape.to_vec(), label };
        }
        let bytes = (shape.iter().product::<usize>() as u64).max(1) * ELEMENT;
        assert!(
            bytes <= gpu.binding_limit,
            "{label} {shape:?} needs {bytes} bytes; the limit per binding is {}",
            gpu.binding_limit
        );
        let size = bytes;
        #[cfg(test)]
        let size = {
            use std::sync::atomic::Ordering::Relaxed;
            let number = gpu.tensors.fetch_add(1, Relaxed);
            let is_refused = gpu.sabotage.refused == Some(number);
            // More than the device has: it refuses as it does when its memory is full.
            if is_refused { gpu.device.limits().max_buffer_size + 4 } else { size }
        };
        let buffer = gpu.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some(&label),
            size,
            usage: wgpu::BufferUsages::STORAGE
                | wgpu::BufferUsages::COPY_SRC
                | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        });
        gpu.allocated.fetch_add(bytes, std::sync::atomic::Ordering::Relaxed);
        Self { buffer, shape: shape.to_vec(), label }
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Size on the device in bytes.
    pub fn bytes(&self) -> u64 {
        self.buffer.size()
    }
}
