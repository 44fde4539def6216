//! Everything that names wgpu, and nothing that names the model: devices, tensors, kernels as data,
//! tapes of recorded work, and results that come back later.

mod clock;
mod context;
mod error;
mod faults;
mod kernel;
mod readback;
mod tape;
mod tensor;
#[cfg(test)]
pub(crate) mod testing;

pub use clock::Clock;
pub use context::{Gpu, GpuOptions, Profile};
pub use error::GpuError;
pub use faults::Watch;
pub use kernel::{Kernel, KernelSource, MAX_GROUPS, Shader, Specialisation, lanes, spread};
pub use readback::{Readback, read_now};
pub use tape::{Completion, InFlight, Tape, Timing};
pub use tensor::{Pod, Tensor};
