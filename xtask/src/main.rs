//! Development tasks, run as `cargo xtask NAME`.

mod test;

use std::process::{Command, ExitCode};

const HELP: &str = "\
usage: cargo xtask TASK

tasks:
  test   install what the tests need, then check formatting, lints and documentation,
         and run every test (the GPU ones on a software adapter where there is no GPU)
  web    (not there yet) build the web page";

fn main() -> ExitCode {
    let task = std::env::args().nth(1);
    let outcome = match task.as_deref() {
        Some("test") => test::all(),
        Some("web") => {
            Err("the web page is not built yet: this version has the library and the command \
            line tool; try `cargo run --release -- sample`"
                .to_owned())
        }
        None | Some("help" | "--help" | "-h") => {
            println!("{HELP}");
            return ExitCode::SUCCESS;
        }
        Some(other) => Err(format!("there is no task {other:?}\n\n{HELP}")),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("error: {message}");
            ExitCode::FAILURE
        }
    }
}

/// Runs a program with its output shown; fails with its name when it does.
fn run(program: &str, arguments: &[&str], environment: &[(&str, &str)]) -> Result<(), String> {
    let line = format!("{program} {}", arguments.join(" "));
    println!("\n$ {line}");
    let status = Command::new(program)
        .args(arguments)
        .envs(environment.iter().copied())
        .status()
        .map_err(|error| format!("cannot run `{line}`: {error}"))?;
    if status.success() { Ok(()) } else { Err(format!("`{line}` failed")) }
}

/// Whether a program runs successfully; its output is dropped.
fn succeeds(program: &str, arguments: &[&str]) -> bool {
    Command::new(program).args(arguments).output().is_ok_and(|output| output.status.success())
}
