//! What the views of Explore show, as plain values made from a trace. Nothing here paints; every number is tested
//! against counts taken from the trace by hand.

pub(crate) mod csv;
pub(crate) mod differences;
pub(crate) mod film;
pub(crate) mod gallery;
pub(crate) mod labels;
pub(crate) mod lens;
pub(crate) mod margins;
pub(crate) mod place;
#[cfg(all(test, feature = "window"))]
mod redraw_tests;
pub(crate) mod sentence;
pub(crate) mod stops;
pub(crate) mod story;
pub(crate) mod tally;
#[cfg(test)]
pub(super) mod tests;
pub(crate) mod tokens;
