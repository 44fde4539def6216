//! The figures of all pipelines: as text for people, and as the committed file.

use std::fmt::Write as _;

use crate::Outcome;
use crate::assembly::main_loop;
use crate::driver::Found;
use crate::pipelines::Pipeline;

/// What the compiler made of all pipelines.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Table {
    /// Chip, as `RADV_FORCE_FAMILY` names it.
    pub(crate) family: String,
    /// Driver and version.
    pub(crate) driver: String,
    pub(crate) rows: Vec<Row>,
    /// Milliseconds of compiling each; of this run, not of a file.
    pub(crate) times: Vec<f64>,
}

/// One pipeline.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Row {
    /// Kernel and constants.
    pub(crate) name: String,
    /// See [`COLUMNS`].
    pub(crate) figures: [u32; COLUMNS.len()],
}

/// Names of the figures, with what the driver calls them where it has them.
pub(crate) const COLUMNS: [(&str, Option<&str>); 9] = [
    ("VGPRs", Some("VGPRs")),
    ("spills", None),
    ("scratch", Some("Scratch size")),
    ("LDS", Some("LDS size")),
    ("waves", Some("Subgroups per SIMD")),
    ("instructions", Some("Instructions")),
    ("in loop", None),
    ("FMA %", None),
    ("after loop %", None),
];

const HEADER: &str = "\
# Machine code

What Mesa's compiler for AMD GPUs makes of every pipeline that the real models ask for, without a GPU.
`cargo xtask isa` compiles them again and fails where a figure is more than 10 % worse than here, where a pipeline is
missing here, or where a limit is passed (`xtask/isa/src/gate.rs`); `cargo xtask isa --update` writes this file.

- **VGPRs**: vector registers of a lane; **spills**: registers that went to memory; **scratch**: bytes of private
  memory of a lane. Both should be 0.
- **LDS**: bytes of workgroup memory; **waves**: those that fit a SIMD at once, as the driver counts them, 32 at most; many hide
  the wait for memory.
- **instructions**: of the whole kernel; **in loop**: of its loop with the most arithmetic, over K or over keys.
- **FMA %**: multiply-adds among that loop's vector arithmetic, counted in its text; **after loop %**: the share of all
  instructions that follow it.
";

impl Row {
    /// A figure by the name of its column.
    pub(crate) fn figure(&self, column: &str) -> u32 {
        COLUMNS.iter().position(|c| c.0 == column).map_or(0, |i| self.figures[i])
    }
}

impl Table {
    pub(crate) fn new(family: &str) -> Self {
        Self { family: family.to_owned(), ..Self::default() }
    }

    /// Adds a pipeline.
    pub(crate) fn add(&mut self, pipeline: &Pipeline, found: Found) -> Outcome<()> {
        let main = main_loop(&found.assembly);
        let statistic = |name| found.statistic(name).map(|value| value as u32);
        let instructions = statistic("Instructions")?;
        let percent = |part: usize, whole: usize| {
            (100 * part + whole / 2).checked_div(whole).unwrap_or(0) as u32
        };
        let mut figures = [0; COLUMNS.len()];
        for (figure, (name, of_driver)) in figures.iter_mut().zip(COLUMNS) {
            *figure = match (name, of_driver) {
                (_, Some(name)) => statistic(name)?,
                ("spills", _) => statistic("Spilled VGPRs")? + statistic("Spilled SGPRs")?,
                ("in loop", _) => main.instructions as u32,
                ("FMA %", _) => percent(main.fused, main.vector),
                _ => percent(main.after, instructions as usize),
            };
        }
        self.driver = found.driver;
        self.times.push(found.milliseconds);
        self.rows.push(Row { name: pipeline.name(), figures });
        Ok(())
    }

    /// For a terminal, with the times of this run.
    pub(crate) fn print(&self) -> String {
        let width = self.rows.iter().map(|row| row.name.len()).max().unwrap_or(0);
        let mut text = format!("{}, {}\n{:width$}", self.driver, self.family, "");
        for (name, _) in COLUMNS {
            let _ = write!(text, "  {name}");
        }
        text.push_str("       ms\n");
        for (row, ms) in self.rows.iter().zip(&self.times) {
            let _ = write!(text, "{:width$}", row.name);
            for ((name, _), figure) in COLUMNS.iter().zip(row.figures) {
                let _ = write!(text, "  {figure:>0$}", name.len());
            }
            let _ = writeln!(text, "  {ms:7.1}");
        }
        let total: f64 = self.times.iter().sum();
        let _ = write!(text, "{} pipelines compiled in {:.1} s", self.rows.len(), total / 1e3);
        text
    }

    /// The committed file.
    pub(crate) fn to_markdown(&self) -> String {
        let mut text =
            format!("{HEADER}\nCompiler: {}\nChip: {}\n\n| pipeline |", self.driver, self.family);
        for (name, _) in COLUMNS {
            let _ = write!(text, " {name} |");
        }
        text.push_str("\n|---|");
        text.push_str(&"---:|".repeat(COLUMNS.len()));
        for row in &self.rows {
            let _ = write!(text, "\n| `{}` |", row.name);
            for figure in row.figures {
                let _ = write!(text, " {figure} |");
            }
        }
        text.push('\n');
        text
    }

    /// Reads the committed file.
    pub(crate) fn from_markdown(text: &str) -> Result<Self, String> {
        let mut table = Self::default();
        for line in text.lines() {
            if let Some(driver) = line.strip_prefix("Compiler: ") {
                driver.clone_into(&mut table.driver);
            } else if let Some(family) = line.strip_prefix("Chip: ") {
                family.clone_into(&mut table.family);
            } else if let Some(row) = line.strip_prefix("| `") {
                table.rows.push(parse_row(row).ok_or_else(|| format!("no row: {line}"))?);
            }
        }
        if table.rows.is_empty() { Err("it has no rows".into()) } else { Ok(table) }
    }
}

fn parse_row(text: &str) -> Option<Row> {
    let (name, figures) = text.split_once("` |")?;
    let figures: Vec<_> = figures
        .trim_end()
        .strip_suffix('|')?
        .split('|')
        .map(|figure| figure.trim().parse().ok())
        .collect::<Option<_>>()?;
    Some(Row { name: name.to_owned(), figures: figures.try_into().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_read_as_it_was_written() {
        let rows = vec![
            Row { name: "attention QUADS=16".into(), figures: [1, 2, 3, 4, 5, 6, 7, 8, 9] },
            Row { name: "softmax".into(), figures: [0; 9] },
        ];
        let table =
            Table { family: "gfx1100".into(), driver: "radv Mesa 1".into(), rows, times: vec![] };
        assert_eq!(Table::from_markdown(&table.to_markdown()), Ok(table));
        assert!(Table::from_markdown("no table").is_err());
        assert!(Table::from_markdown("| `a` | 1 | 2 |").is_err());
    }
}
