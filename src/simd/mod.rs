//! Vector code of the CPU engine and the CPU image decoder: elementwise maths, packed matrix products,
//! convolutions, threads.

#![allow(
    clippy::inline_always,
    reason = "vector code is only made of what is inlined into the function that the processor's features switch on"
)]

pub(crate) mod conv;
#[cfg(feature = "compact")]
mod formats;
#[cfg(feature = "compact")]
pub(crate) mod kept;
#[cfg(feature = "compact")]
pub(crate) mod low;
pub(crate) mod math;
pub(crate) mod matmul;
#[cfg(feature = "compact")]
mod operands;
#[cfg(feature = "compact")]
mod platform;
pub(crate) mod threads;

pub(crate) use matmul::PANEL;
pub(crate) use threads::describe;
