//! The entry points of a web page: the app on a canvas, and a generator without a user interface for other pages.

#![cfg(target_arch = "wasm32")]

mod decoder;
mod events;
mod fetching;
mod generator;
mod objects;
mod options;
mod page;
mod slices;

pub use generator::{Generator, check_device, shaders};
pub use page::{Page, start};
