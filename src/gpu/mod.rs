//! Everything that depends on wgpu and not on the model: devices, tensors, kernels as data,
//! tapes of recorded work, and asynchronous results.

mod clock;
mod context;
mod error;
mod faults;
mod kernel;
mod pipelines;
mod profile;
mod readback;
mod shader;
mod tape;
mod tensor;
#[cfg(test)]
pub(crate) mod testing;

pub use clock::Clock;
pub use context::{Gpu, GpuOptions};
#[cfg(test)]
pub(crate) use context::{Sabotage, answer};
pub use error::GpuError;
pub use faults::Watch;
pub use kernel::{Kernel, KernelSource, MAX_GROUPS, lanes, spread};
pub use profile::{Profile, Tile, Tiling};
pub use readback::{Readback, read_now};
pub(crate) use shader::compact;
pub use shader::{Shader, Specialisation};
pub use tape::{Completion, InFlight, Tape, Timing};
pub use tensor::{Pod, Tensor};
