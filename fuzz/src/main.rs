//! `cargo xtask fuzz TARGET --seconds N --seed S`: looks for input that a reader cannot take.

mod tensors;

use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use diffmoe_fuzz::{Campaign, TARGETS, Target, seeds};

const HELP: &str = "usage: cargo xtask fuzz [TARGET] [--seconds N] [--executions N] [--seed S]

Changes the inputs in fuzz/corpus at random and gives them to a reader, or to each of all, for so many seconds (default
60) or inputs.
A panic, more than a second, and more than 8 times the input and 64 MiB of memory are faults. The smallest input of each
is written to fuzz/faults. The same seed makes the same inputs.

cargo xtask fuzz pytorch [--count N] [--seed S]: reads generated PyTorch files here and with PyTorch, and compares.

diffmoe-fuzz --tensors FILE…: prints the tensors of PyTorch files, a line of JSON for each file.";

fn main() -> ExitCode {
    match run() {
        Ok(code) => code,
        Err(message) => {
            eprintln!("error: {message}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<ExitCode, String> {
    let (mut seconds, mut executions, mut seed, mut name) = (None, None, 1, None);
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut number = || {
            let value = arguments.next().and_then(|text| text.parse::<u64>().ok());
            value.ok_or_else(|| format!("{argument} needs a number"))
        };
        match argument.as_str() {
            "--help" | "-h" => {
                println!("{HELP}");
                return Ok(ExitCode::SUCCESS);
            }
            "--seconds" => seconds = Some(number()?),
            "--executions" => executions = Some(number()?),
            "--tensors" => {
                arguments.for_each(|path| println!("{}", tensors::line(&path)));
                return Ok(ExitCode::SUCCESS);
            }
            "--seed" => seed = number()?,
            _ => name = Some(argument),
        }
    }
    let chosen = |target: &&Target| name.as_deref().is_none_or(|name| name == target.name);
    let chosen: Vec<_> = TARGETS.iter().filter(chosen).collect();
    if chosen.is_empty() {
        let names: Vec<_> = TARGETS.iter().map(|target| target.name).collect();
        return Err(format!("no such target: expected {}", names.join(", ")));
    }
    let seconds = seconds.unwrap_or(if executions.is_some() { u64::MAX } else { 60 });
    let mut faults = 0;
    for target in chosen {
        let seeds = seeds(target).map_err(|error| format!("{}: {error}", target.name))?;
        let begin = Instant::now();
        let mut campaign = Campaign::new(target, &seeds, seed);
        campaign.run(Duration::from_secs(seconds), executions.unwrap_or(u64::MAX));
        let report = campaign.report();
        let time = begin.elapsed().as_secs_f64();
        let rate = report.executions as f64 / time;
        println!(
            "{:<12} {} seeds, {} inputs in {time:.0} s, {rate:.0} a second, {} kept, {} different answers, {} faults",
            target.name,
            seeds.len(),
            report.executions,
            report.kept,
            report.answers,
            report.faults.len()
        );
        for (i, (fault, input)) in report.faults.iter().enumerate() {
            let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("faults");
            let path = folder.join(format!("{}-{seed}-{i}", target.name));
            std::fs::create_dir_all(&folder)
                .and_then(|()| std::fs::write(&path, input))
                .map_err(|error| format!("cannot write {}: {error}", path.display()))?;
            println!("  {fault}: {}", path.display());
        }
        faults += report.faults.len();
    }
    Ok(if faults == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
