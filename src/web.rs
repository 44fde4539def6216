//! The entry points of a web page: the app on a canvas, and a generator without a user interface for other pages.

mod events;
mod generator;
mod options;
mod page;

pub use generator::{Generator, shaders};
pub use page::{Page, start};
