//! Compiled shaders: each once, and several at the same time where the system has threads.
//!
//! A driver takes 50 milliseconds to seconds for a pipeline. To have them all before the first step, work is recorded
//! on a stand-in for the device ([`Gpu::rehearsal`]), which only notes what it is asked for.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use super::{Gpu, Shader, Specialisation};
use crate::platform;

/// The values of the overrides that depend on a call, as bits so that they can be part of a key.
type ConstantBits = Vec<(&'static str, u64)>;

/// A shader that was asked for.
#[derive(Clone)]
struct Entry {
    shader: Shader,
    /// There once somebody has compiled it.
    pipeline: Arc<OnceLock<wgpu::ComputePipeline>>,
}

/// Every pipeline of a device.
#[derive(Default)]
pub(super) struct Pipelines(Mutex<HashMap<(&'static str, ConstantBits), Entry>>);

/// What a stand-in for a device has in the place of memory and pipelines.
pub(super) struct Rehearsal {
    /// The memory of all tensors.
    pub(super) buffer: wgpu::Buffer,
    wanted: Mutex<Vec<Specialisation>>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Gpu {
    /// A stand-in for the device: tensors take no memory there, tapes stay empty, and pipelines are noted instead of
    /// compiled. [`Gpu::compile`] takes the notes.
    #[must_use]
    pub fn rehearsal(&self) -> Self {
        let buffer = self.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("rehearsal"),
            size: 4,
            usage: wgpu::BufferUsages::STORAGE,
            mapped_at_creation: false,
        });
        let rehearsal = Rehearsal { buffer, wanted: Mutex::default() };
        Self {
            device: self.device.clone(),
            queue: self.queue.clone(),
            info: self.info.clone(),
            profile: self.profile,
            tiling: self.tiling,
            tiling_is_fixed: self.tiling_is_fixed,
            binding_limit: self.binding_limit,
            poison: false,
            pipelines: self.pipelines.clone(),
            faults: self.faults.clone(),
            is_hosted: self.is_hosted,
            polling: self.polling.clone(),
            allocated: 0.into(),
            rehearsal: Some(rehearsal),
            #[cfg(test)]
            sabotage: self.sabotage,
            #[cfg(test)]
            tensors: 0.into(),
        }
    }

    /// Whether this is a stand-in that computes nothing.
    pub fn is_rehearsal(&self) -> bool {
        self.rehearsal.is_some()
    }

    /// Notes a pipeline that a stand-in is asked for; false on a device.
    pub(super) fn note(&self, shader: Shader, constants: &[(&'static str, f64)]) -> bool {
        let Some(rehearsal) = &self.rehearsal else { return false };
        locked(&rehearsal.wanted).push(Specialisation { shader, constants: constants.to_vec() });
        true
    }

    /// What was asked of a stand-in, each once, long shaders first: they take longest.
    pub fn wanted(&self) -> Vec<Specialisation> {
        let mut seen = std::collections::HashSet::new();
        let mut wanted: Vec<_> =
            self.rehearsal.iter().flat_map(|r| locked(&r.wanted).clone()).collect();
        wanted.retain(|s| seen.insert((s.shader.name, bits(&s.constants))));
        wanted.sort_by_key(|s| std::cmp::Reverse(s.shader.source.len()));
        wanted
    }

    /// Compiles pipelines, on several threads where there are some, and waits for them. In a browser they are compiled
    /// outside of the page's thread, and nothing waits.
    pub fn compile(&self, wanted: &[Specialisation]) {
        platform::share_out(wanted.len(), |i| {
            let _watch = self.watch();
            self.pipeline(wanted[i].shader, &wanted[i].constants);
        });
    }

    /// The compiled form of a shader with its constants; compiled once.
    pub(super) fn pipeline(
        &self,
        shader: Shader,
        constants: &[(&'static str, f64)],
    ) -> wgpu::ComputePipeline {
        let key = (shader.name, bits(constants));
        let new = || Entry { shader, pipeline: Arc::default() };
        let entry = locked(&self.pipelines.0).entry(key).or_insert_with(new).clone();
        entry.pipeline.get_or_init(|| self.build(shader, constants)).clone()
    }

    fn build(&self, shader: Shader, constants: &[(&'static str, f64)]) -> wgpu::ComputePipeline {
        let sizes = shader.sizes.iter().map(|&(name, value)| (name, f64::from(value)));
        let all: Vec<_> = sizes.chain(constants.iter().copied()).collect();
        let text = std::borrow::Cow::Borrowed(shader.source);
        #[cfg(test)]
        let text = match self.sabotage.shader.and_then(|alter| alter(shader.name, &text)) {
            Some(other) => other.into(),
            None => text,
        };
        let module = self.device.create_shader_module(wgpu::ShaderModuleDescriptor {
            label: Some(shader.name),
            source: wgpu::ShaderSource::Wgsl(text),
        });
        self.device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some(shader.name),
            // Deduced from the shader: bindings are stated once, in WGSL.
            layout: None,
            module: &module,
            entry_point: None,
            compilation_options: wgpu::PipelineCompilationOptions {
                constants: &all,
                // Kernels write workgroup memory before they use it. Drivers would fill up to 16 KiB with zeros, some
                // with one lane; browsers do it in any case.
                zero_initialize_workgroup_memory: false,
            },
            cache: None,
        })
    }

    /// Every pipeline that the work recorded so far has asked for, by name and constants.
    pub fn specialisations(&self) -> Vec<Specialisation> {
        let entries = locked(&self.pipelines.0);
        let all: BTreeMap<_, _> = entries.iter().collect();
        let value = |&(name, bits): &(_, u64)| (name, f64::from_bits(bits));
        all.into_iter()
            .map(|((_, bits), entry)| Specialisation {
                shader: entry.shader,
                constants: bits.iter().map(value).collect(),
            })
            .collect()
    }
}

fn bits(constants: &[(&'static str, f64)]) -> ConstantBits {
    constants.iter().map(|&(name, value)| (name, value.to_bits())).collect()
}

#[cfg(test)]
mod tests {
    use crate::gpu::testing::gpu;
    use crate::gpu::{Tape, Tensor};
    use crate::kernels::Softmax;

    #[test]
    fn a_rehearsal_notes_pipelines_and_takes_no_memory() {
        let stand_in = gpu().rehearsal();
        assert!(stand_in.is_rehearsal() && !gpu().is_rehearsal());
        // More than any device binds, and never written.
        let x = Tensor::empty(&stand_in, "x", &[1 << 16, 1 << 10]);
        let y = Tensor::upload(&stand_in, "y", &[2, 2], &[1.0_f32; 4]);
        assert_eq!((x.bytes(), y.bytes(), stand_in.allocated_bytes()), (4, 4, 0));
        let mut tape = Tape::default();
        for _ in 0..2 {
            tape.push(&stand_in, "", &Softmax { x: &y, columns: 2, scale: 1.0 });
        }
        assert!(tape.is_empty());
        let wanted = stand_in.wanted();
        assert_eq!(wanted.iter().map(|s| s.shader.name).collect::<Vec<_>>(), ["softmax"]);
        gpu().compile(&wanted);
        let names = gpu().specialisations().into_iter().map(|s| s.shader.name);
        assert!(names.into_iter().any(|name| name == "softmax"));
        assert_eq!(gpu().failure(), None);
    }
}
