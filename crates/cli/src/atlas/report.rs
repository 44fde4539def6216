//! An atlas in a few lines: which labels need most, and whether experts mind the label at all.

use std::fmt::Write as _;
use std::io::Write;
use std::process::ExitCode;

use diffmoe::trace::atlas::{Atlas, AtlasTable};

use super::super::Outcome;

/// Labels that are named at each end.
const ENDS: usize = 5;

/// Prints text; whoever reads may have seen enough, as `head` does.
pub(super) fn print(text: &str) -> Outcome {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(ExitCode::SUCCESS),
        result => Ok(result.map(|()| ExitCode::SUCCESS)?),
    }
}

/// What an atlas amounts to.
pub(super) fn summary(atlas: &Atlas) -> String {
    let settings: Vec<_> =
        atlas.settings.iter().map(|(key, value)| format!("{key} {value}")).collect();
    let mut text = format!(
        "{}: {} images of {} tokens, {}\n",
        atlas.model,
        atlas.images,
        atlas.tokens,
        settings.join(", ")
    );
    for table in &atlas.tables {
        let _ = writeln!(text, "\n{}, {} labels", table.name, table.labels.len());
        ends(&mut text, atlas, table);
        specialisation(&mut text, atlas, table);
    }
    text
}

/// The labels with the largest and the smallest C, with the standard error of the mean.
fn ends(text: &mut String, atlas: &Atlas, table: &AtlasTable) {
    let order = atlas.by_capacity(table);
    let name = |&(label, capacity): &(usize, f32)| {
        let error = table.spread[label] / (table.images[label].max(1) as f32).sqrt();
        format!("{} {capacity:.2} ± {error:.2}", table.labels[label])
    };
    let shown = ENDS.min(order.len().div_ceil(2));
    let most: Vec<_> = order[..shown].iter().map(name).collect();
    let least: Vec<_> = order.iter().rev().take(shown.min(order.len() / 2)).map(name).collect();
    let _ = writeln!(text, "  largest C   {}", most.join(", "));
    let _ = writeln!(text, "  smallest C  {}", least.join(", "));
}

/// Mean |log₂ lift| beside what is left of it when labels are shuffled, by block and noise.
fn specialisation(text: &mut String, atlas: &Atlas, table: &AtlasTable) {
    let bands = 0..atlas.passes.len();
    let heads: Vec<_> = bands
        .clone()
        .map(|band| {
            let [from, to] = atlas.levels(band);
            format!("{:>14}", format!("{from:.2}–{to:.2}"))
        })
        .collect();
    let _ = writeln!(text, "  mean |log₂ lift| (with shuffled labels), by noise level");
    let _ = writeln!(text, "  {:<10}{}", "", heads.concat());
    for (layer, block) in atlas.blocks.iter().enumerate() {
        let cell = |band: usize| {
            let mean = table.lifts(band, layer).mean();
            let shuffled = table.shuffled.mean[band][layer];
            let words = mean.map_or("idle".to_owned(), |m| format!("{m:.2} ({shuffled:.2})"));
            format!("{words:>14}")
        };
        let cells: Vec<_> = bands.clone().map(cell).collect();
        let _ = writeln!(text, "  {:<10}{}", format!("block {block}"), cells.concat());
    }
}
