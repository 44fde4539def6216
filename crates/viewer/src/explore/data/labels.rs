//! Labels × experts at one noise level and layer, as an atlas has counted them.

use std::cmp::Ordering;

use diffmoe::trace::atlas::{Atlas, AtlasTable};

/// One label.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Row {
    /// Its place in the table.
    pub(crate) label: usize,
    /// log₂ of each expert's lift, `[E]`.
    pub(crate) log2: Vec<f32>,
    /// Whether that is more than shuffled labels give in 95 of 100 cases, `[E]`.
    pub(crate) beyond: Vec<bool>,
    /// `C` at this noise level.
    pub(crate) capacity: f32,
}

/// A layer in a noise band.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Heat {
    /// Sorted.
    pub(crate) rows: Vec<Row>,
    /// Experts that hardly work at this noise level, `[E]`.
    pub(crate) idle: Vec<bool>,
    /// Mean |log₂ lift|, and the same with shuffled labels; nothing where all experts are idle.
    pub(crate) mean: Option<(f32, f32)>,
    /// Share of the cells of busy experts that lie beyond what shuffled labels give in 95 of 100 cases.
    pub(crate) beyond: f32,
}

impl Heat {
    /// Rows from the largest lift of an expert to the smallest, or from the largest `C`.
    pub(crate) fn of(
        atlas: &Atlas,
        table: &AtlasTable,
        (band, layer): (usize, usize),
        by: Option<usize>,
    ) -> Self {
        let lifts = table.lifts(band, layer);
        let idle: Vec<bool> = (0..atlas.experts).map(|expert| lifts.is_idle(expert)).collect();
        let shuffled = table.shuffled.mean.get(band).and_then(|layers| layers.get(layer));
        let mean = lifts.mean().zip(shuffled.copied());
        let row = |(label, log2): (usize, Vec<f32>)| Row {
            label,
            beyond: log2
                .iter()
                .enumerate()
                .map(|(e, lift)| lift.abs() > table.noise(band, layer, e))
                .collect(),
            capacity: atlas.capacity(table, label, Some(band)).unwrap_or(0.0),
            log2,
        };
        let mut rows: Vec<Row> = lifts.log2.into_iter().enumerate().map(row).collect();
        let order = |a: &Row, b: &Row| -> Ordering {
            let lift = |row: &Row| by.and_then(|e| row.log2.get(e)).copied();
            match (lift(a), lift(b)) {
                (Some(a), Some(b)) => b.total_cmp(&a),
                _ => b.capacity.total_cmp(&a.capacity),
            }
        };
        rows.sort_by(order);
        let busy = rows.iter().flat_map(|row| row.beyond.iter().zip(&idle));
        let busy: Vec<bool> = busy.filter(|(_, idle)| !**idle).map(|(beyond, _)| *beyond).collect();
        let count = busy.iter().filter(|beyond| **beyond).count();
        let beyond = count as f32 / busy.len().max(1) as f32;
        Self { rows, idle, mean, beyond }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use diffmoe::trace::atlas::Shuffled;

    use super::*;

    /// Three labels, two experts, one layer. The first expert works on "ant" in the last band, the second on "cat".
    pub(crate) fn atlas() -> Atlas {
        let even = vec![vec![100, 100]];
        let label =
            |last: [u32; 2]| vec![even.clone(), even.clone(), even.clone(), vec![last.to_vec()]];
        Atlas {
            model: "t".into(),
            hash: String::new(),
            experts: 2,
            blocks: vec![1],
            tokens: 64,
            images: 6,
            passes: vec![2; 4],
            settings: std::collections::BTreeMap::new(),
            tables: vec![AtlasTable {
                name: "class".into(),
                labels: ["ant", "bee", "cat"].map(str::to_owned).into(),
                rows: vec![0, 1, 2],
                images: vec![2; 3],
                spread: vec![0.1; 3],
                taken: vec![label([150, 50]), label([110, 90]), label([20, 100])],
                shuffled: Shuffled {
                    mean: vec![vec![0.1]; 4],
                    high: vec![vec![vec![0.3, 0.3]]; 4],
                },
            }],
            margins: None,
            thumbnails: None,
        }
    }

    #[test]
    fn rows_are_those_of_the_atlas_in_the_order_asked_for() {
        let atlas = atlas();
        let table = &atlas.tables[0];
        let heat = |band, by| Heat::of(&atlas, table, (band, 0), by);
        let labels = |heat: &Heat| heat.rows.iter().map(|row| row.label).collect::<Vec<_>>();
        assert_eq!(labels(&heat(3, Some(0))), [0, 1, 2]);
        assert_eq!(labels(&heat(3, Some(1))), [2, 1, 0]);
        // C is 200, 200 and 120 tokens of 2 images, 2 passes and 64 tokens.
        let by_capacity = heat(3, None);
        assert_eq!(by_capacity.rows[2].label, 2);
        assert!((by_capacity.rows[2].capacity - 120.0 / 256.0).abs() < 1e-6);
        let lifts = table.lifts(3, 0);
        for row in &by_capacity.rows {
            assert_eq!(row.log2, lifts.log2[row.label]);
            for (expert, lift) in row.log2.iter().enumerate() {
                assert_eq!(row.beyond[expert], lift.abs() > 0.3);
            }
        }
        assert_eq!(by_capacity.mean, Some((lifts.mean().unwrap(), 0.1)));
        assert!(by_capacity.beyond > 0.5 && heat(0, None).beyond == 0.0);
        assert_eq!(by_capacity.idle, [false; 2]);
    }

    #[test]
    fn places_that_the_atlas_does_not_have_are_empty() {
        let atlas = atlas();
        let heat = Heat::of(&atlas, &atlas.tables[0], (7, 3), Some(9));
        assert_eq!((heat.rows.len(), heat.mean), (0, None));
    }
}
