//! An atlas as a table of text, for other programs.

use std::fmt::Write;

use super::Atlas;

impl Atlas {
    /// A line for each label, band, layer and expert, separated by commas.
    pub fn to_csv(&self) -> String {
        let mut text = "table,label,images,noise_from,noise_to,block,expert,taken,tokens,capacity,log2_lift,shuffled_95,margin_mean,margin_5,margin_25,margin_50,margin_75,margin_95\n"
            .to_owned();
        for table in &self.tables {
            for band in 0..self.passes.len() {
                let [from, to] = self.levels(band);
                for (layer, block) in self.blocks.iter().enumerate() {
                    let (counts, lifts) = (table.counts(band, layer), table.lifts(band, layer));
                    for (label, row) in counts.iter().enumerate() {
                        let images = table.images[label];
                        let tokens =
                            u64::from(images) * u64::from(self.passes[band]) * self.tokens as u64;
                        let sum: u64 = row.iter().map(|&n| u64::from(n)).sum();
                        let capacity = sum as f64 / tokens.max(1) as f64;
                        for (expert, taken) in row.iter().enumerate() {
                            // Of all labels together, so the same in the lines of every label.
                            let margins = match self.margin(band, layer, expert) {
                                Some((mean, p)) => {
                                    format!("{mean},{},{},{},{},{}", p[0], p[1], p[2], p[3], p[4])
                                }
                                None => ",,,,,".to_owned(),
                            };
                            let _ = writeln!(
                                text,
                                "{},{},{images},{from},{to},{block},{expert},{taken},{tokens},{capacity:.4},{:.3},{:.3},{margins}",
                                quoted(&table.name),
                                quoted(&table.labels[label]),
                                lifts.log2[label][expert],
                                table.noise(band, layer, expert),
                            );
                        }
                    }
                }
            }
        }
        text
    }
}

/// A cell of a table whose commas are none between cells. Names come from files: what a spreadsheet would take for a
/// formula begins with an apostrophe.
fn quoted(cell: &str) -> String {
    let mark = if cell.starts_with(['=', '+', '-', '@', '\t', '\r']) { "'" } else { "" };
    if cell.contains([',', '"', '\n', '\r']) {
        format!("\"{mark}{}\"", cell.replace('"', "\"\""))
    } else {
        format!("{mark}{cell}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commas_in_names_do_not_end_a_cell() {
        assert_eq!(quoted("fox"), "fox");
        assert_eq!(quoted("a fox, \"blob\""), "\"a fox, \"\"blob\"\"\"");
        assert_eq!(quoted("a\r=1"), "\"a\r=1\"");
    }

    #[test]
    fn names_are_no_formulas() {
        assert_eq!(quoted("=HYPERLINK(\"x\")"), "\"'=HYPERLINK(\"\"x\"\")\"");
        assert_eq!(["+1", "-1", "@a"].map(quoted), ["'+1", "'-1", "'@a"]);
    }
}
