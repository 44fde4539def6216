//! `cargo xtask bench`: a fixed set of models and batches on the CPU, every way to compute in turns, and ONNX Runtime
//! and PyTorch beside it where a Python with them is found.
//!
//! All ways get the same weights and inputs. A round runs each of them once, so that other work on the machine meets all
//! alike; ratios are taken within a round.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::{run, succeeds, target_folder, text, tool};

pub(crate) const HELP: &str = "usage: cargo xtask bench [--rounds N] [--update]

Times a guided step on the CPU: emoji with 1, 4 and 16 images and S-E16 with one image of 256 tokens, with products in
f32, bf16 and int8 in turns. Writes target/bench.json and target/bench.md. RAYON_NUM_THREADS sets the threads.

  --rounds N   rounds, each of which runs everything once (default 5)
  --update     also replace the table in docs/performance.md

DIFFMOE_PYTHON names a Python with onnxruntime, onnx, numpy and safetensors (default python3) for the comparison of a
forward pass with ONNX Runtime, and with PyTorch if torch is installed; without it the comparison is left out.";

/// Where the table is kept, between these lines.
const DOCUMENT: &str = "docs/performance.md";
const BEGIN: &str = "<!-- cargo xtask bench -->\n";
const END: &str = "<!-- end of cargo xtask bench -->";

/// The ways to compute, the first of which the others are compared with.
const WAYS: [&str; 3] = ["f32", "bf16", "int8"];

/// A row of the table.
struct Case {
    name: &'static str,
    model: PathBuf,
    batch: usize,
    /// For each way its times in milliseconds, `(median, fastest)` of each round.
    times: [Vec<(f64, f64)>; WAYS.len()],
}

pub(crate) fn bench(arguments: &[String]) -> Result<(), String> {
    let mut rounds = 5_usize;
    let mut updates = false;
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        match argument.as_str() {
            "--help" | "-h" => {
                println!("{HELP}");
                return Ok(());
            }
            "--update" => updates = true,
            "--rounds" => {
                let count = rest.next().and_then(|n| n.parse().ok()).filter(|n| *n > 0);
                rounds = count.ok_or("--rounds needs a number from 1 on")?;
            }
            other => return Err(format!("unknown option {other:?}\n\n{HELP}")),
        }
    }
    run("cargo", &["build", "--release", "--package", "diffmoe-cli"], &[])?;
    let target = target_folder();
    let program = tool("release");
    let large = target.join("bench-s-e16.safetensors");
    if !large.exists() {
        run(text(&program)?, &["make-random", "S-E16", "--out", text(&large)?], &[])?;
    }
    let case = |name, model: &Path, batch| Case {
        name,
        model: model.to_owned(),
        batch,
        times: Default::default(),
    };
    let emoji = Path::new("emoji");
    let mut cases = [
        case("emoji, 1 × 64", emoji, 1),
        case("emoji, 4 × 64", emoji, 4),
        case("emoji, 16 × 64", emoji, 16),
        case("S-E16, 1 × 256", &large, 1),
    ];
    let mut device = String::new();
    let mut refused = Vec::new();
    for round in 0..rounds {
        for case in &mut cases {
            for (way, times) in WAYS.into_iter().zip(&mut case.times) {
                if refused.contains(&way) {
                    continue;
                }
                match once(&program, way, &case.model, case.batch) {
                    Ok((name, time)) => {
                        if way == WAYS[0] {
                            device = name;
                        }
                        times.push(time);
                    }
                    Err(message) if way != WAYS[0] => {
                        eprintln!("{way} is left out: {message}");
                        refused.push(way);
                    }
                    Err(message) => return Err(message),
                }
            }
        }
        eprintln!("round {} of {rounds}", round + 1);
    }
    let markdown = table(&cases, &device, rounds) + &peers();
    let json = as_json(&cases, &device);
    for (name, text) in [("bench.md", &markdown), ("bench.json", &json)] {
        let path = target.join(name);
        std::fs::write(&path, text).map_err(|e| format!("cannot write {}: {e}", path.display()))?;
    }
    println!("{markdown}");
    if updates {
        let document = std::fs::read_to_string(DOCUMENT).map_err(|e| format!("{DOCUMENT}: {e}"))?;
        let new = replaced(&document, &markdown)
            .ok_or_else(|| format!("{DOCUMENT} has no lines {BEGIN:?} and {END:?}"))?;
        std::fs::write(DOCUMENT, new).map_err(|e| format!("cannot write {DOCUMENT}: {e}"))?;
    }
    Ok(())
}

/// Runs `diffmoe bench` once: the device, and the median and the fastest step in milliseconds.
fn once(
    program: &Path,
    way: &str,
    model: &Path,
    batch: usize,
) -> Result<(String, (f64, f64)), String> {
    let file = target_folder().join("bench-once.json");
    let batch = batch.to_string();
    let output = Command::new(program)
        .args(["bench", "--backend", "cpu", "--steps", "5", "--cpu-math", way, "--batch", &batch])
        .arg("--model")
        .arg(model)
        .arg("--json")
        .arg(&file)
        .output()
        .map_err(|error| format!("cannot run {}: {error}", program.display()))?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).trim().to_owned());
    }
    let json = std::fs::read(&file).map_err(|error| format!("{}: {error}", file.display()))?;
    let report: Value = serde_json::from_slice(&json).map_err(|e| e.to_string())?;
    let device = &report["devices"][0];
    let time = |which: &str| device["step_ms"][which].as_f64();
    match (device["name"].as_str(), time("median"), time("min")) {
        (Some(name), Some(median), Some(min)) => Ok((name.to_owned(), (median, min))),
        _ => Err("the report of `diffmoe bench` has no times".into()),
    }
}

/// The middle one of some numbers; NaN where there are none.
fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

fn smallest(values: impl IntoIterator<Item = f64>) -> f64 {
    values.into_iter().fold(f64::INFINITY, f64::min)
}

fn table(cases: &[Case], device: &str, rounds: usize) -> String {
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load: Vec<&str> = load.split(' ').take(3).collect();
    let load = if load.is_empty() { "unknown".into() } else { load.join(", ") };
    let mut out = format!(
        "{} ({device}), load average at the end {load}; {rounds} rounds of 5 steps in turns.\n\
         Guided step in ms: median of the rounds' medians, and the fastest. Ratio to f32: median of the rounds, and \
         the range.\n\n| model, images × tokens |",
        processor()
    );
    for way in WAYS {
        let _ = write!(out, " {way} |");
    }
    for way in &WAYS[1..] {
        let _ = write!(out, " f32 / {way} |");
    }
    let _ = writeln!(out, "\n|---|{}", "---|".repeat(2 * WAYS.len() - 1));
    for Case { name, times, .. } in cases {
        let _ = write!(out, "| {name} |");
        for times in times {
            let middle = median(times.iter().map(|t| t.0));
            let fastest = smallest(times.iter().map(|t| t.1));
            let _ = match times.is_empty() {
                true => write!(out, " – |"),
                false => write!(out, " {middle:.1} ({fastest:.1}) |"),
            };
        }
        for others in &times[1..] {
            let ratios: Vec<f64> = times[0].iter().zip(others).map(|(f, o)| f.0 / o.0).collect();
            let largest = -smallest(ratios.iter().map(|r| -r));
            let _ = match ratios.is_empty() {
                true => write!(out, " – |"),
                false => write!(
                    out,
                    " {:.2}× ({:.2}–{largest:.2}) |",
                    median(ratios.iter().copied()),
                    smallest(ratios.iter().copied())
                ),
            };
        }
        out.push('\n');
    }
    out
}

/// The processor's name.
fn processor() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let field = |name: &str| {
        let line = text.lines().find(|line| line.starts_with(name))?;
        line.split_once(':').map(|(_, value)| value.trim().to_owned())
    };
    match (field("model name"), field("cpu family"), field("model\t")) {
        (Some(name), Some(family), Some(model)) => {
            format!("{name}, family {family}, model {model}")
        }
        _ => "Unknown processor".into(),
    }
}

fn as_json(cases: &[Case], device: &str) -> String {
    let case = |case: &Case| {
        let ways = WAYS.into_iter().zip(&case.times).map(|(way, times)| {
            let list: Vec<Value> =
                times.iter().map(|(median, min)| json!({ "median": median, "min": min })).collect();
            (way.to_owned(), Value::from(list))
        });
        json!({ "name": case.name, "batch": case.batch, "rounds_ms": serde_json::Map::from_iter(ways) })
    };
    let cases: Vec<Value> = cases.iter().map(case).collect();
    let all = json!({ "processor": processor(), "device": device, "cases": cases });
    format!("{all:#}\n")
}

/// One forward pass beside ONNX Runtime and PyTorch, or why not.
fn peers() -> String {
    let python = std::env::var("DIFFMOE_PYTHON").unwrap_or_else(|_| "python3".into());
    if !succeeds(&python, &["-c", "import numpy, onnx, onnxruntime, safetensors"]) {
        return "\nONNX Runtime and PyTorch: not compared, no Python with onnxruntime was found.\n"
            .into();
    }
    match against_peers(&python) {
        Ok(text) => {
            format!("\nOne forward pass in turns with other programs:\n\n```text\n{text}```\n")
        }
        Err(message) => format!("\nThe comparison with other programs failed: {message}\n"),
    }
}

fn against_peers(python: &str) -> Result<String, String> {
    run("cargo", &["build", "--release", "--package", "diffmoe", "--bench", "forward"], &[])?;
    let deps = target_folder().join("release/deps");
    let files = std::fs::read_dir(&deps).map_err(|e| format!("{}: {e}", deps.display()))?;
    let is_program = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        name.starts_with("forward-") && Path::new(name).extension().is_none_or(|e| e == "exe")
    };
    let newest = files
        .filter_map(|file| Some(file.ok()?.path()))
        .filter(is_program)
        .max_by_key(|path| path.metadata().and_then(|m| m.modified()).ok())
        .ok_or("the benchmark program was not built")?;
    let script = "benches/peers.py";
    let mut out = String::new();
    for (preset, batch) in [("mini", "8"), ("s-e16", "1")] {
        let model = target_folder().join(format!("bench-peers-{preset}.safetensors"));
        if !model.exists() {
            run(python, &[script, "--make", preset, text(&model)?], &[])?;
        }
        let output = Command::new(python)
            .args([script, text(&model)?, "--batch", batch, "--rust", text(&newest)?])
            .env("PYTHONPATH", "python/src")
            .output()
            .map_err(|e| e.to_string())?;
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).trim().to_owned());
        }
        let _ =
            writeln!(out, "{preset}, batch {batch}\n{}", String::from_utf8_lossy(&output.stdout));
    }
    Ok(out)
}

/// The document with another table between the marks.
fn replaced(document: &str, table: &str) -> Option<String> {
    let (before, rest) = document.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}\n{table}\n{END}{after}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_replaces_the_one_before() {
        let document = format!("a\n{BEGIN}old\n{END}\nb");
        let new = replaced(&document, "| x |").unwrap();
        assert_eq!(new, format!("a\n{BEGIN}\n| x |\n{END}\nb"));
        assert_eq!(replaced(&new, "| x |").as_deref(), Some(&*new));
        assert_eq!(replaced("a", "b"), None);
    }

    #[test]
    fn ratios_are_those_of_a_round() {
        let times = [
            vec![(4.0, 3.0), (8.0, 7.0), (6.0, 5.0)],
            vec![(2.0, 1.0), (2.0, 1.5), (6.0, 2.0)],
            vec![],
        ];
        let case = Case { name: "m", model: "m".into(), batch: 1, times };
        let table = table(&[case], "cpu", 3);
        assert!(
            table.contains("| m | 6.0 (3.0) | 2.0 (1.0) | – | 2.00× (1.00–4.00) | – |"),
            "{table}"
        );
    }
}
