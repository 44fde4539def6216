//! The entry points of a web page: the app on a canvas, and a generator without a user interface for other pages.

#![cfg(target_arch = "wasm32")]

mod decoder;
mod events;
mod fetching;
mod generator;
mod init;
mod mirror;
mod objects;
mod options;
mod page;
mod slices;
mod tab_icon;
mod worker;

pub use generator::{Generator, check_device, shaders};
pub use page::{Page, start};
pub use worker::{worker_receive, worker_warm_up};
