//! The viewer as a program.

use std::process::ExitCode;

use clap::Parser;
use diffmoe_viewer::window;

#[derive(Parser)]
#[command(name = "diffmoe-viewer", version, max_term_width = 100)]
struct Line {
    #[command(flatten)]
    arguments: window::Arguments,
}

fn main() -> ExitCode {
    diffmoe::platform::quiet_vulkan();
    window::run(&Line::parse().arguments).unwrap_or_else(|error| {
        eprintln!("error: {error}");
        ExitCode::from(2)
    })
}
