//! A run as text: everything that draws the same images again. Links of the app carry it behind their `#`, saved PNG
//! files inside, next to the form that image tools of this field read.

mod data;
mod parameters;
mod saved;
mod sweep;
mod text;

pub use data::{Recipe, RecipeError};
pub use parameters::Parameters;
pub use saved::{SETTINGS_KEYWORD, Saved, SavedError, png_texts};
pub use sweep::{Axis, AxisError, Sweep};
