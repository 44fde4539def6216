//! `cargo xtask mutants`: whether the tests of the library notice errors in its code.
//!
//! cargo-mutants does the same with one build for each mutant, which is a day for two thousand of them on two cores. Here all
//! mutants are compiled once, each behind a switch, and a mutant is only given to the tests that reach it.

mod build;
mod switches;
mod trial;
mod values;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use switches::Mutant;
use trial::{Outcome, Tests};

const HELP: &str = "usage: cargo xtask mutants [--list] [--sample N] [PATH…] [-- SELECTION]

Changes operators, conditions and results of functions in these files and folders, one at a time, and runs the library's
tests that do not need a GPU. Without paths: schedulers, routing, views of traces, and the reading of checkpoints.
A mutant that no test notices is printed; some of them change nothing that could be noticed.
--sample N tries so many of them, chosen at random, always the same ones; --list prints all.
SELECTION is what Cargo builds; the default is `--package diffmoe --features import`.";

/// What is tested for errors unless something else is asked for.
const AREAS: [(&str, &[&str]); 4] = [
    ("schedulers", &["src/scheduler"]),
    ("routing", &["src/model/routing.rs", "src/engine/cpu/router.rs"]),
    ("trace", &["src/trace"]),
    ("checkpoint", &["src/checkpoint"]),
];

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("error: {message}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), String> {
    let mut arguments: Vec<_> = std::env::args().skip(1).collect();
    let selection = arguments.iter().position(|a| a == "--").map(|at| arguments.split_off(at));
    let takes = |arguments: &mut Vec<String>, name: &str| {
        let at = arguments.iter().position(|a| a == name);
        at.map(|at| arguments.remove(at)).is_some()
    };
    let lists = takes(&mut arguments, "--list");
    let sample = match arguments.iter().position(|a| a == "--sample") {
        None => usize::MAX,
        Some(at) => {
            let number = arguments.get(at + 1).and_then(|text| text.parse().ok());
            arguments.drain(at..(at + 2).min(arguments.len()));
            number.ok_or("--sample needs a number")?
        }
    };
    if arguments.iter().any(|a| a.starts_with('-')) {
        println!("{HELP}");
        return Ok(());
    }
    let selection = match selection {
        Some(given) => given[1..].to_vec(),
        None => ["--package", "diffmoe", "--features", "import"].map(str::to_owned).to_vec(),
    };
    let areas: Vec<(String, Vec<PathBuf>)> = if arguments.is_empty() {
        let of = |(name, paths): &(&str, &[&str])| {
            ((*name).to_owned(), paths.iter().map(PathBuf::from).collect())
        };
        AREAS.iter().map(of).collect()
    } else {
        arguments.iter().map(|path| (path.clone(), vec![path.into()])).collect()
    };
    let paths: Vec<&Path> = areas.iter().flat_map(|(_, paths)| paths).map(|p| &**p).collect();
    if lists {
        for mutant in build::list(&paths)? {
            println!("{}", described(&mutant, Outcome::Missed));
        }
        return Ok(());
    }
    let built = build::build(&paths, &selection)?;
    println!("{} mutants, and {} that do not compile", built.mutants.len(), built.unviable);
    let tests = Tests::of(&built)?;
    let mut outcomes = Vec::new();
    let mut chosen: Vec<&Mutant> = built.mutants.iter().collect();
    if sample < chosen.len() {
        chosen.sort_by_key(|mutant| shuffled(mutant.id));
        chosen.truncate(sample);
    }
    for mutant in chosen {
        let outcome = tests.outcome(&built, mutant)?;
        if !outcome.is_caught() {
            println!("{}", described(mutant, outcome));
        }
        outcomes.push((mutant, outcome));
    }
    println!("\n{:<24} {:>8} {:>8} {:>8} {:>8}", "", "mutants", "caught", "missed", "%");
    for (name, paths) in &areas {
        let of = |m: &Mutant| paths.iter().any(|path| Path::new(&m.file).starts_with(path));
        print_row(name, outcomes.iter().filter(|(mutant, _)| of(mutant)).map(|(_, o)| *o));
    }
    print_row("all", outcomes.iter().map(|(_, outcome)| *outcome));
    Ok(())
}

/// A number without an order: a round of SplitMix64.
fn shuffled(id: u32) -> u64 {
    let z = u64::from(id).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn described(mutant: &Mutant, outcome: Outcome) -> String {
    let Mutant { id, file, line, function, change, .. } = mutant;
    let why = if outcome == Outcome::Unreached { ", which no test runs" } else { "" };
    format!("{file}:{line}: {function}{why}: {change} (MUTANT={id})")
}

fn print_row(name: &str, outcomes: impl Iterator<Item = Outcome>) {
    let outcomes: Vec<_> = outcomes.collect();
    let (all, caught) =
        (outcomes.len(), outcomes.iter().filter(|outcome| outcome.is_caught()).count());
    let share = 100.0 * caught as f64 / all.max(1) as f64;
    println!("{name:<24} {all:>8} {caught:>8} {:>8} {share:>8.1}", all - caught);
}
