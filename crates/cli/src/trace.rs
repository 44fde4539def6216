//! `diffmoe trace`: summary of a routing trace, as a table or as CSV.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use diffmoe::trace::{Load, Trace};

use super::Outcome;

/// Summarise a routing trace: capacity and balance of the experts, by layer and step.
#[derive(clap::Args)]
#[command(after_help = "Columns:
  C          mean number of experts per token
  effective  exp(entropy of the experts' loads) / experts: 1 if all do the same, 1/experts if one does everything
  largest    load of the busiest expert over the fair share
  dead       share of experts that took no token
  skipped    share of tokens that no expert took
A step's row is the mean over layers, because experts of different layers are unrelated, and that of the whole
run the mean over steps. A block's row counts the tokens of all steps together.

Examples:
  diffmoe sample --trace routing.json
  diffmoe trace routing.json
  diffmoe trace routing.json --csv > routing.csv")]
pub(super) struct Arguments {
    /// Trace written by `diffmoe sample --trace`, JSON or safetensors.
    file: PathBuf,
    /// Print comma-separated values, one line per step and layer.
    #[arg(long)]
    csv: bool,
}

pub(super) fn run(arguments: &Arguments) -> Outcome {
    let path = arguments.file.display();
    let bytes =
        std::fs::read(&arguments.file).map_err(|error| format!("cannot read {path}: {error}"))?;
    let trace = Trace::from_bytes(&bytes).map_err(|error| format!("{path}: {error}"))?;
    let text = if arguments.csv { csv(&trace) } else { table(&trace) };
    println!("{}", text.trim_end());
    Ok(ExitCode::SUCCESS)
}

/// The five numbers of a row: C, effective, largest, dead, skipped.
type Row = [Option<f64>; 5];

fn row(load: &Load) -> Row {
    let [capacity, dead, skipped] = [load.capacity(), load.dead(), load.skipped()].map(Some);
    [capacity, load.effective(), load.largest(), dead, skipped]
}

/// Mean of each number over the rows that have it.
fn mean(rows: &[Row]) -> Row {
    std::array::from_fn(|i| {
        let known: Vec<f64> = rows.iter().filter_map(|row| row[i]).collect();
        (!known.is_empty()).then(|| known.iter().sum::<f64>() / known.len() as f64)
    })
}

/// One row per layer of a step.
fn rows_of_step(trace: &Trace, step: u32) -> Vec<Row> {
    let loads = (0..trace.blocks().len()).filter_map(|layer| trace.load(step, layer));
    loads.map(|load| row(&load)).collect()
}

fn csv(trace: &Trace) -> String {
    let mut text =
        "step,time,block,capacity,effective_experts,largest_load,dead,skipped\n".to_owned();
    for step in 0..trace.steps() {
        for (layer, block) in trace.blocks().into_iter().enumerate() {
            let Some(load) = trace.load(step, layer) else { continue };
            let time = trace.time(step).map_or_else(String::new, |time| time.to_string());
            let cells =
                row(&load).map(|cell| cell.map_or_else(String::new, |cell| cell.to_string()));
            let _ = writeln!(text, "{step},{time},{block},{}", cells.join(","));
        }
    }
    text
}

fn table(trace: &Trace) -> String {
    let blocks = trace.blocks();
    let images = match trace.images() {
        1 => "1 image".to_owned(),
        n => format!("{n} images"),
    };
    if blocks.is_empty() {
        return format!("{}: {} steps without experts\n", trace.model(), trace.steps());
    }
    let scores = if trace.has_scores() { "with" } else { "without" };
    let [rows, columns] = trace.grid();
    let mut text = format!(
        "{}: {images} of {rows}×{columns} tokens, {} steps, {} layers of {} experts, {scores} scores\n\n",
        trace.model(),
        trace.steps(),
        blocks.len(),
        trace.experts(),
    );
    text += "                  C  effective  largest   dead  skipped\n";
    let mut line = |name: &str, row: Row| {
        let [capacity, effective, largest, dead, skipped] = row;
        let number = |value: Option<f64>| value.map_or("–".to_owned(), |v| format!("{v:.2}"));
        let percent =
            |value: Option<f64>| value.map_or("–".to_owned(), |v| format!("{:.0}%", 100.0 * v));
        let _ = writeln!(
            text,
            "{name:<12} {:>6}  {:>9}  {:>7}  {:>5}  {:>7}",
            number(capacity),
            number(effective),
            number(largest),
            percent(dead),
            percent(skipped)
        );
    };
    let by_step: Vec<Row> =
        (0..trace.steps()).map(|step| mean(&rows_of_step(trace, step))).collect();
    line("whole run", mean(&by_step));
    for (layer, block) in blocks.iter().enumerate() {
        if let Some(load) = trace.load_of_layer(layer) {
            line(&format!("block {block}"), row(&load));
        }
    }
    for (step, row) in by_step.into_iter().enumerate() {
        line(&format!("step {step}"), row);
    }
    text
}
