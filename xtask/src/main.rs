//! Development tasks, run as `cargo xtask NAME`.

mod bench;
mod python;
mod test;
#[cfg(feature = "web")]
mod web;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

const HELP: &str = "usage: cargo xtask TASK

tasks:
  test   install what the tests need, then check formatting, lints and documentation,
         and run every test: on a software adapter where there is no GPU, in Python, and in a browser
  bench  time a fixed set of models on the CPU, with ONNX Runtime and PyTorch beside it where they are found;
         `cargo xtask bench --help` lists its options
  fuzz   give damaged and hostile input to everything that reads foreign files;
         `cargo xtask fuzz --help` lists its options
  soak   long runs: memory, lost devices, killed processes (docs/reliability.md)
  mutants  change the code in a copy, one place at a time, and see which changes no test notices;
         `cargo xtask mutants --help` lists its options
  isa    compile every shader for an AMD GPU, without one, and compare the machine code with
         docs/isa.md; `cargo xtask isa --help` lists its options
  web    build the web page into dist/; `cargo xtask web --help` lists its options";

/// The target that browsers run.
const WASM: &str = "wasm32-unknown-unknown";

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let outcome = match arguments.first().map(String::as_str) {
        Some("test") => test::all(),
        Some("bench") => bench::bench(&arguments[1..]),
        Some("fuzz") if arguments.get(1).is_some_and(|a| a == "pytorch") => {
            python::against_pytorch("fuzz", &arguments[2..])
        }
        Some("fuzz") => package("diffmoe-fuzz", "fuzz", &arguments[1..]),
        Some("soak") => soak(),
        Some("mutants") => package("mutants", "dev", &arguments[1..]),
        Some("isa") => package("isa", "dev", &arguments[1..]),
        Some("web") => web(&arguments[1..]),
        None | Some("help" | "--help" | "-h") => {
            println!("{HELP}");
            return ExitCode::SUCCESS;
        }
        Some(other) => Err(format!("unknown task {other:?}\n\n{HELP}")),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("error: {message}");
            ExitCode::FAILURE
        }
    }
}

/// The tests that take minutes, one after the other.
fn soak() -> Result<(), String> {
    for package in ["diffmoe", "diffmoe-cli"] {
        let test = ["test", "--package", package, "--test", "soak", "--", "--ignored"];
        run("cargo", &[&test[..], &["--nocapture", "--test-threads=1"]].concat(), &[])?;
    }
    Ok(())
}

/// A program of its own, because it contains the library, which other tasks do not have to build.
fn package(name: &str, profile: &str, arguments: &[String]) -> Result<(), String> {
    let mut all = vec!["run", "--quiet", "--profile", profile, "--package", name, "--"];
    all.extend(arguments.iter().map(String::as_str));
    let status = Command::new("cargo").args(&all).status();
    match status.map_err(|error| format!("cannot run cargo: {error}"))?.success() {
        true => Ok(()),
        false => Err(format!("{name} found something; see above")),
    }
}

#[cfg(feature = "web")]
fn web(arguments: &[String]) -> Result<(), String> {
    if arguments.iter().any(|a| a == "--help" || a == "-h") {
        println!("{}", web::HELP);
        return Ok(());
    }
    web::run(arguments)
}

/// Runs this program again with what the page needs, so that the other tasks do not have to build it.
#[cfg(not(feature = "web"))]
fn web(arguments: &[String]) -> Result<(), String> {
    let mut all = vec!["run", "--quiet", "--package", "xtask", "--features", "web", "--", "web"];
    all.extend(arguments.iter().map(String::as_str));
    let status = Command::new("cargo").args(&all).status();
    match status.map_err(|error| format!("cannot run cargo: {error}"))?.success() {
        true => Ok(()),
        false => Err("the page was not built; see above".into()),
    }
}

/// Runs a program with its output shown; fails with its name when it does.
fn run(program: &str, arguments: &[&str], environment: &[(&str, &str)]) -> Result<(), String> {
    let line = format!("{program} {}", arguments.join(" "));
    println!("\n$ {line}");
    let start = std::time::Instant::now();
    let status = Command::new(program)
        .args(arguments)
        .envs(environment.iter().copied())
        .status()
        .map_err(|error| format!("cannot run `{line}`: {error}"))?;
    println!("{:.0} s: {line}", start.elapsed().as_secs_f32());
    if status.success() { Ok(()) } else { Err(format!("`{line}` failed")) }
}

/// Where Cargo builds.
fn target_folder() -> PathBuf {
    let folder =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| PathBuf::from("target"), PathBuf::from);
    // Programs that run in another folder get paths below it, and diffusers never ends with a relative cache.
    std::path::absolute(&folder).unwrap_or(folder)
}

/// The command line tool, where Cargo builds it with a profile (`debug` or `release`).
fn tool(profile: &str) -> PathBuf {
    target_folder().join(profile).join(format!("diffmoe{}", std::env::consts::EXE_SUFFIX))
}

/// A path as an argument of a program.
fn text(path: &Path) -> Result<&str, String> {
    path.to_str().ok_or_else(|| format!("{} is not valid Unicode", path.display()))
}

/// Whether a program runs successfully; its output is dropped.
fn succeeds(program: &str, arguments: &[&str]) -> bool {
    Command::new(program).args(arguments).output().is_ok_and(|output| output.status.success())
}
