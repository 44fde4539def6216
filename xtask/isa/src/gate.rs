//! Checks: limits, known exceptions from them, and no figure much worse than in the committed file.

use crate::table::{Row, Table};

/// A figure of a kernel that must not be passed.
struct Limit {
    /// Stem of the shader; empty for all.
    kernel: &'static str,
    column: &'static str,
    most: u32,
}

const LIMITS: [Limit; 4] = [
    // Memory where registers should be: tens of times slower.
    Limit { kernel: "", column: "scratch", most: 0 },
    Limit { kernel: "", column: "spills", most: 0 },
    // The epilogue must not cost more than the product, nor take seconds to compile.
    Limit { kernel: "linear", column: "instructions", most: 1_800 },
    // Of a loop of 370 instructions, 90 % of them multiply-adds: the shorter the loop, the larger the share of the rest.
    Limit { kernel: "linear", column: "after loop %", most: 49 },
];

/// A pipeline that is known to pass a limit.
struct Exception {
    /// Beginning of its name.
    pipeline: &'static str,
    column: &'static str,
    /// How far it may go.
    most: u32,
    /// Why.
    reason: &'static str,
}

const EXCEPTIONS: [Exception; 1] = [Exception {
    pipeline: "linear WEIGHTS=2",
    column: "after loop %",
    most: 50,
    reason: "int8 has scales of rows to load",
}];

/// Relative growth that is not yet a regression.
const SLACK: f64 = 0.1;

/// Figures of which less is better, and more. Sizes below the second number are not worth a word.
const LESS_IS_BETTER: [(&str, u32); 5] =
    [("VGPRs", 24), ("spills", 0), ("scratch", 0), ("LDS", 1024), ("instructions", 50)];
const MORE_IS_BETTER: [&str; 2] = ["waves", "FMA %"];

/// One sentence for each limit that a pipeline passes.
pub(crate) fn passed_limits(table: &Table) -> Vec<String> {
    let mut failures = Vec::new();
    for row in &table.rows {
        let kernel = row.name.split(' ').next().unwrap_or_default();
        for limit in LIMITS.iter().filter(|l| l.kernel.is_empty() || l.kernel == kernel) {
            let figure = row.figure(limit.column);
            let exception = EXCEPTIONS
                .iter()
                .find(|e| row.name.starts_with(e.pipeline) && e.column == limit.column);
            let most = exception.map_or(limit.most, |e| e.most);
            if figure > most {
                let reason =
                    exception.map_or(String::new(), |e| format!(" (exception: {})", e.reason));
                failures.push(format!(
                    "{}: {} {figure}, at most {most}{reason}",
                    row.name, limit.column
                ));
            }
        }
    }
    failures
}

/// One sentence for each figure that is worse than in the file, and for pipelines that one of them lacks.
pub(crate) fn regressions(before: &Table, now: &Table) -> Vec<String> {
    const HINT: &str = "if that is meant, run `cargo xtask isa --update`";
    let mut failures = Vec::new();
    for row in &now.rows {
        let Some(old) = before.rows.iter().find(|old| old.name == row.name) else {
            failures.push(format!("{}: not in the table; {HINT}", row.name));
            continue;
        };
        failures.extend(worse(old, row).map(|what| format!("{}: {what}; {HINT}", row.name)));
    }
    for old in &before.rows {
        if !now.rows.iter().any(|row| row.name == old.name) {
            failures.push(format!("{}: in the table, but no model asks for it; {HINT}", old.name));
        }
    }
    failures
}

fn worse(old: &Row, new: &Row) -> impl Iterator<Item = String> {
    let less = LESS_IS_BETTER.into_iter().filter_map(|(column, small)| {
        let (was, is) = (old.figure(column), new.figure(column));
        (is > small && f64::from(is) > f64::from(was) * (1.0 + SLACK)).then_some((column, was, is))
    });
    let more = MORE_IS_BETTER.into_iter().filter_map(|column| {
        let (was, is) = (old.figure(column), new.figure(column));
        (f64::from(is) < f64::from(was) * (1.0 - SLACK)).then_some((column, was, is))
    });
    less.chain(more)
        .map(|(column, was, is)| format!("{column} was {was} and is {is}"))
        .collect::<Vec<_>>()
        .into_iter()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(rows: &[(&str, [u32; 9])]) -> Table {
        let rows = rows.iter().map(|&(name, figures)| Row { name: name.into(), figures });
        Table { rows: rows.collect(), ..Table::new("gfx1100") }
    }

    const GOOD: [u32; 9] = [60, 0, 0, 10_240, 16, 1_700, 600, 60, 40];

    #[test]
    fn limits_name_the_pipeline_and_the_figure() {
        assert!(passed_limits(&table(&[("linear WEIGHTS=1", GOOD)])).is_empty());
        let long = [60, 0, 0, 10_240, 16, 4_697, 600, 60, 85];
        let failures = passed_limits(&table(&[("linear WEIGHTS=1", long), ("other", long)]));
        assert_eq!(failures.len(), 2, "{failures:?}");
        assert!(failures[0].contains("linear WEIGHTS=1: instructions 4697"), "{failures:?}");
        let spilled = [255, 9, 512, 0, 4, 100, 0, 0, 0];
        assert_eq!(passed_limits(&table(&[("softmax", spilled)])).len(), 2);
    }

    #[test]
    fn more_than_a_tenth_worse_is_a_regression() {
        let before = table(&[("linear", GOOD)]);
        assert!(regressions(&before, &before).is_empty());
        let mut figures = GOOD;
        figures[5] = 1_870;
        assert!(regressions(&before, &table(&[("linear", figures)])).is_empty());
        figures[5] = 1_871;
        figures[4] = 14;
        assert_eq!(regressions(&before, &table(&[("linear", figures)])).len(), 2);
        // Another pipeline: one is new and one is gone.
        assert_eq!(regressions(&before, &table(&[("linear WEIGHTS=1", GOOD)])).len(), 2);
    }
}
