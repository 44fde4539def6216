//! The command line tool: `diffmoe sample`, `verify`, `info`, `bench`.

mod cli;

fn main() -> std::process::ExitCode {
    diffmoe::platform::quiet_vulkan();
    cli::main()
}
