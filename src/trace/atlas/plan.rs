//! Which labels the images of a survey show.

/// A label table of a survey.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedTable {
    /// The table's name.
    pub name: String,
    /// Names of the labels.
    pub labels: Vec<String>,
    /// Their rows in the model's table.
    pub rows: Vec<u32>,
}

/// The images of a survey: every combination of the tables' labels, several times. One seed of all combinations comes
/// after the other, so that a survey that is stopped early has seen every label.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    tables: Vec<PlannedTable>,
    seeds: usize,
}

impl Plan {
    /// Every combination of these labels, `seeds` times.
    pub fn new(tables: Vec<PlannedTable>, seeds: usize) -> Self {
        Self { tables, seeds }
    }

    /// The tables.
    pub fn tables(&self) -> &[PlannedTable] {
        &self.tables
    }

    /// Images in all.
    pub fn images(&self) -> usize {
        let counts = self.tables.iter().map(|table| table.labels.len());
        counts.fold(self.seeds, usize::saturating_mul)
    }

    /// Place of an image's label in the labels of a table. The last table changes fastest.
    pub fn label(&self, table: usize, image: usize) -> usize {
        let after: usize = self.tables[table + 1..].iter().map(|t| t.labels.len()).product();
        image / after.max(1) % self.tables[table].labels.len().max(1)
    }

    /// Rows of a table for all images, in order.
    pub fn rows(&self, table: usize) -> impl Iterator<Item = u32> {
        (0..self.images()).map(move |image| self.tables[table].rows[self.label(table, image)])
    }
}

/// `count` of `of` places, evenly spread.
fn spread(count: usize, of: usize) -> Vec<usize> {
    let count = count.min(of);
    (0..count).map(|i| (2 * i + 1) * of / (2 * count)).collect()
}

impl PlannedTable {
    /// `count` labels of a table with these names, evenly spread over it.
    pub fn spread(name: &str, labels: &[String], count: usize) -> Self {
        let places = spread(count, labels.len());
        Self {
            name: name.to_owned(),
            labels: places.iter().map(|&i| labels[i].clone()).collect(),
            rows: places.iter().map(|&i| i as u32).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_combination_comes_once_for_each_seed() {
        let names =
            |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let subjects = PlannedTable::spread("subject", &names(&["a", "b", "c", "d", "e", "f"]), 3);
        assert_eq!(
            (subjects.labels.concat(), subjects.rows.as_slice()),
            ("bdf".into(), &[1, 3, 5][..])
        );
        let styles = PlannedTable::spread("style", &names(&["x", "y"]), 8);
        let plan = Plan::new(vec![subjects, styles], 2);
        assert_eq!(plan.images(), 12);
        let pairs: Vec<_> = (0..12).map(|i| (plan.label(0, i), plan.label(1, i))).collect();
        assert_eq!(pairs[..6], [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 1)]);
        assert_eq!(pairs[6..], pairs[..6]);
        let rows: Vec<_> = plan.rows(0).take(6).collect();
        assert_eq!(rows, [1, 1, 3, 3, 5, 5]);
    }

    #[test]
    fn labels_are_spread_over_the_whole_table() {
        assert_eq!(spread(4, 100), [12, 37, 62, 87]);
        assert_eq!(spread(9, 3), [0, 1, 2]);
        assert_eq!(spread(0, 3), [0; 0]);
    }
}
