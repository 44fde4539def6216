//! `diffmoe window`: the viewer if it was built in, otherwise a hint how to get it.

use super::Outcome;

#[cfg(feature = "window")]
pub(super) use diffmoe_viewer::window::Arguments;

#[cfg(feature = "window")]
pub(super) fn run(arguments: &Arguments) -> Outcome {
    diffmoe_viewer::window::run(arguments)
}

/// Open the viewer in a window (not part of this build).
#[cfg(not(feature = "window"))]
#[derive(clap::Args)]
pub(super) struct Arguments {
    /// Arguments of the viewer.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    _rest: Vec<String>,
}

#[cfg(not(feature = "window"))]
pub(super) fn run(_arguments: &Arguments) -> Outcome {
    Err("this build has no window: run `cargo run --release -p diffmoe-viewer`, or build the \
         tool with `--features window`"
        .into())
}
