//! Vector code of the CPU engine and the CPU image decoder: elementwise maths, packed matrix products,
//! convolutions, threads.

#![allow(
    clippy::inline_always,
    reason = "vector code is only made of what is inlined into the function that the processor's features switch on"
)]

pub(crate) mod conv;
pub(crate) mod math;
pub(crate) mod matmul;
pub(crate) mod threads;

pub(crate) use threads::describe;
