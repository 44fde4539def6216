//! Vector code of the CPU engine and the CPU image decoder: elementwise maths, packed matrix products,
//! convolutions, threads.

#![allow(
    clippy::inline_always,
    reason = "vector code is only made of what is inlined into the function that the processor's features switch on"
)]

pub(crate) mod conv;
pub(crate) mod low;
pub(crate) mod math;
pub(crate) mod matmul;
mod panels;
mod platform;
pub(crate) mod threads;

pub(crate) use panels::PANEL;
pub(crate) use threads::describe;
