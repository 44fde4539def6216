//! Errors of a device. Messages say what to do.

/// Why there is no device, or why it no longer works.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum GpuError {
    /// Neither a GPU nor a software implementation of Vulkan, Metal or Direct3D 12 was found.
    #[error("no graphics adapter was found: {0}")]
    NoAdapter(String),
    /// An adapter is there, but it would not give us a device with the limits that every WebGPU device has.
    #[error("{adapter} cannot run these kernels: {reason}")]
    NoDevice {
        /// Name of the adapter.
        adapter: String,
        /// The driver's words.
        reason: String,
    },
    /// A request was not answered, within the given number of seconds.
    #[error("{0} did not answer within {1} seconds")]
    NoAnswer(String, u64),
    /// The device computes, but not what it should.
    #[error("{0}")]
    Wrong(String),
    /// The device is gone: driver reset, time-out, unplugged, or out of memory.
    #[error("the graphics device was lost: {0}")]
    Lost(String),
    /// The device refused a call: a bug of ours, or memory that ran out.
    #[error("the graphics device reported an error: {0}")]
    Refused(String),
}
