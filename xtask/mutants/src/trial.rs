//! Tests, what each of them reaches, and what it says to a mutant.

use std::collections::HashSet;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::build::Built;
use crate::switches::Mutant;

/// Tests of these modules use a GPU, or start others that do.
const LEFT_OUT: [&str; 4] = ["gpu::", "engine::gpu::", "kernels::", "pipeline::check"];

/// Tests that run together first: quick ones notice most.
const FIRST: Duration = Duration::from_millis(500);

/// What the tests said to a mutant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Caught,
    /// They did not end.
    Endless,
    Missed,
    Unreached,
}

impl Outcome {
    pub(crate) fn is_caught(self) -> bool {
        matches!(self, Self::Caught | Self::Endless)
    }
}

struct Test {
    name: String,
    time: Duration,
    /// First mutants of the switches that it reaches.
    reached: HashSet<u32>,
}

/// All tests that succeed without a mutant, the quickest first.
pub(crate) struct Tests(Vec<Test>);

impl Tests {
    /// Runs every test once.
    pub(crate) fn of(built: &Built) -> Result<Self, String> {
        let list = Command::new(&built.program)
            .args(["--list", "--format", "terse"])
            .current_dir(&built.folder)
            .output()
            .map_err(|error| format!("cannot list the tests: {error}"))?;
        let list = String::from_utf8_lossy(&list.stdout).into_owned();
        let names = list.lines().filter_map(|line| line.strip_suffix(": test"));
        let mut tests = Vec::new();
        let report = built.folder.join("reached");
        for name in names.filter(|name| !LEFT_OUT.iter().any(|module| name.starts_with(module))) {
            // From the test before.
            let _ = std::fs::remove_file(&report);
            let begin = Instant::now();
            let path = report.to_str().unwrap_or_default();
            let is_fine = run(built, u32::MAX, &[name], Duration::from_mins(1), path)?;
            let time = begin.elapsed();
            if is_fine != Some(true) {
                println!("{name} fails without a mutant and is left out");
                continue;
            }
            let reached = std::fs::read_to_string(&report).unwrap_or_default();
            let reached: HashSet<u32> = reached.lines().filter_map(|l| l.parse().ok()).collect();
            if !reached.is_empty() {
                tests.push(Test { name: name.to_owned(), time, reached });
            }
        }
        tests.sort_by_key(|test| test.time);
        println!("{} tests reach a mutant", tests.len());
        Ok(Self(tests))
    }

    pub(crate) fn outcome(&self, built: &Built, mutant: &Mutant) -> Result<Outcome, String> {
        let tests: Vec<_> = self.0.iter().filter(|t| t.reached.contains(&mutant.group)).collect();
        if tests.is_empty() {
            return Ok(Outcome::Unreached);
        }
        let mut sum = Duration::ZERO;
        let quick = tests.iter().take_while(|test| {
            sum += test.time;
            sum <= FIRST
        });
        let quick = quick.count().max(1);
        for part in [&tests[..quick], &tests[quick..]].into_iter().filter(|part| !part.is_empty()) {
            let names: Vec<&str> = part.iter().map(|test| &*test.name).collect();
            let usual: Duration = part.iter().map(|test| test.time).sum();
            match run(built, mutant.id, &names, Duration::from_secs(10) + 5 * usual, "")? {
                Some(true) => {}
                Some(false) => return Ok(Outcome::Caught),
                None => return Ok(Outcome::Endless),
            }
        }
        Ok(Outcome::Missed)
    }
}

/// Whether tests succeed with a mutant; `None` where they take too long.
fn run(
    built: &Built,
    mutant: u32,
    names: &[&str],
    most: Duration,
    reached: &str,
) -> Result<Option<bool>, String> {
    // A mutant may ask for any amount of memory.
    let mut command = Command::new("sh");
    let mut child = command
        .args(["-c", "ulimit -v 8000000 2>/dev/null; exec \"$0\" \"$@\""])
        .arg(&built.program)
        .arg("--exact")
        .args(names)
        .env("MUTANT", mutant.to_string())
        .env("MUTANTS_REACHED", reached)
        .env("RUST_BACKTRACE", "0")
        .current_dir(&built.folder)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| format!("cannot run the tests: {error}"))?;
    let end = Instant::now() + most;
    let mut pause = Duration::from_millis(1);
    loop {
        let status = child.try_wait().map_err(|error| error.to_string())?;
        if let Some(status) = status {
            return Ok(Some(status.success()));
        }
        if Instant::now() > end {
            child.kill().and_then(|()| child.wait()).map_err(|error| error.to_string())?;
            return Ok(None);
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}
