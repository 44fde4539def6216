//! From the counts of all images to an atlas.

use std::collections::BTreeMap;

use super::counts::{BANDS, ImageCounts};
use super::lift::Lifts;
use super::plan::Plan;
use super::{Atlas, AtlasTable, Shuffled};
use crate::model::Config;
use crate::scheduler::random_rows;

/// Cells of a label's row that are shuffled for each expert, at least.
const SAMPLES: usize = 1000;
/// Deals of the labels, at least.
const LEAST_DEALS: usize = 20;

/// What a survey knows besides its counts.
pub struct About<'a> {
    /// The model.
    pub config: &'a Config,
    /// First digits of the SHA-256 of its file.
    pub hash: String,
    /// What the images were drawn with.
    pub settings: BTreeMap<String, String>,
}

impl Atlas {
    /// Adds up the counts of a plan's images.
    ///
    /// # Panics
    /// When there are not as many counts as images, or they are of another model: a bug of the caller.
    pub fn measure(about: About<'_>, plan: &Plan, counts: &[ImageCounts]) -> Self {
        let (blocks, experts) = (about.config.moe_blocks(), about.config.num_experts);
        assert_eq!(counts.len(), plan.images(), "counts of every image");
        assert!(counts.iter().all(|c| c.fits(blocks.len(), experts)), "counts of this model");
        let shape = Shape { layers: blocks.len(), experts, tokens: about.config.finest().tokens() };
        let compared = plan.tables().iter().enumerate().filter(|(_, table)| table.labels.len() > 1);
        let tables = compared.map(|(t, table)| {
            let labels: Vec<usize> = (0..counts.len()).map(|image| plan.label(t, image)).collect();
            let n = table.labels.len();
            AtlasTable {
                name: table.name.clone(),
                labels: table.labels.clone(),
                rows: table.rows.clone(),
                images: (0..n)
                    .map(|label| labels.iter().filter(|l| **l == label).count() as u32)
                    .collect(),
                spread: shape.spread(n, &labels, counts),
                taken: shape.nested(&shape.add(n, &labels, counts)),
                shuffled: shape.shuffled(n, &labels, counts),
            }
        });
        Self {
            model: about.config.name.clone(),
            hash: about.hash,
            experts,
            tokens: shape.tokens,
            images: counts.len(),
            passes: counts.first().map_or_else(|| vec![0; BANDS], |counts| counts.passes.clone()),
            settings: about.settings,
            tables: tables.collect(),
            margins: None,
            thumbnails: None,
            blocks,
        }
    }
}

/// Three digits: no measurement here has more.
fn rounded(value: f32) -> f32 {
    (value * 1000.0).round() / 1000.0
}

struct Shape {
    layers: usize,
    experts: usize,
    tokens: usize,
}

impl Shape {
    /// Counts of one image, or of one label: `[bands][layers][E]`.
    fn len(&self) -> usize {
        BANDS * self.layers * self.experts
    }

    /// Sums over the images of each label, `[labels]` of `[bands][layers][E]`.
    fn add(&self, n: usize, labels: &[usize], counts: &[ImageCounts]) -> Vec<Vec<u32>> {
        let mut sums = vec![vec![0_u32; self.len()]; n];
        for (&label, counts) in labels.iter().zip(counts) {
            sums[label].iter_mut().zip(&counts.taken).for_each(|(sum, n)| *sum += n);
        }
        sums
    }

    fn nested(&self, sums: &[Vec<u32>]) -> Vec<Vec<Vec<Vec<u32>>>> {
        let layer = |cells: &[u32]| cells.chunks_exact(self.experts).map(<[u32]>::to_vec).collect();
        let bands = |sums: &Vec<u32>| {
            sums.chunks_exact(self.layers * self.experts).map(layer).collect::<Vec<_>>()
        };
        sums.iter().map(bands).collect()
    }

    /// Standard deviation of `C` over the images of each label.
    fn spread(&self, n: usize, labels: &[usize], counts: &[ImageCounts]) -> Vec<f32> {
        let capacity = |counts: &ImageCounts| {
            let taken: u64 = counts.taken.iter().map(|&n| u64::from(n)).sum();
            let passes: u64 = counts.passes.iter().map(|&n| u64::from(n)).sum();
            taken as f64 / (passes * (self.layers * self.tokens) as u64).max(1) as f64
        };
        let all: Vec<(usize, f64)> =
            labels.iter().copied().zip(counts.iter().map(capacity)).collect();
        let of_label = |label: usize| {
            let values: Vec<f64> =
                all.iter().filter(|(l, _)| *l == label).map(|(_, c)| *c).collect();
            if values.len() < 2 {
                return 0.0;
            }
            let mean = values.iter().sum::<f64>() / values.len() as f64;
            let squares: f64 = values.iter().map(|c| (c - mean) * (c - mean)).sum();
            rounded((squares / (values.len() - 1) as f64).sqrt() as f32)
        };
        (0..n).map(of_label).collect()
    }

    /// Deals the labels out to the images anew, many times. The deals do not depend on anything but their number.
    fn shuffled(&self, n: usize, labels: &[usize], counts: &[ImageCounts]) -> Shuffled {
        let deals = LEAST_DEALS.max(SAMPLES.div_ceil(n));
        let places = BANDS * self.layers;
        let mut sizes = vec![vec![Vec::new(); self.experts]; places];
        let mut means = vec![Vec::new(); places];
        for deal in 0..deals {
            let sums = self.add(n, &dealt(labels, deal as u32), counts);
            for place in 0..places {
                let first = place * self.experts;
                let rows: Vec<&[u32]> =
                    sums.iter().map(|row| &row[first..first + self.experts]).collect();
                let lifts = Lifts::of(&rows);
                means[place].extend(lifts.mean());
                lifts.sizes().for_each(|(expert, size)| sizes[place][expert].push(size));
            }
        }
        let mean =
            |values: &Vec<f32>| rounded(values.iter().sum::<f32>() / values.len().max(1) as f32);
        let high = |experts: &mut Vec<Vec<f32>>| {
            experts.iter_mut().map(|values| rounded(high(values))).collect()
        };
        let by_band = |place: usize| place * self.layers..(place + 1) * self.layers;
        Shuffled {
            mean: (0..BANDS).map(|b| means[by_band(b)].iter().map(mean).collect()).collect(),
            high: (0..BANDS).map(|b| sizes[by_band(b)].iter_mut().map(high).collect()).collect(),
        }
    }
}

/// What 95 of 100 values stay below.
fn high(values: &mut [f32]) -> f32 {
    values.sort_by(f32::total_cmp);
    values.get(values.len() * 95 / 100).or(values.last()).copied().unwrap_or(0.0)
}

/// The same labels in another order.
fn dealt(labels: &[usize], deal: u32) -> Vec<usize> {
    // As many rows as there are: each comes once.
    let order = random_rows(u64::from(deal), 0, labels.len() as u32, labels.len());
    order.into_iter().map(|i| labels[i as usize]).collect()
}

#[cfg(test)]
mod tests {
    use super::super::plan::PlannedTable;
    use super::*;

    fn config() -> Config {
        Config::from_json(
            r#"{"name":"t","kind":"diffmoe","t_kind":"flow","params":{"input_size":2,"patch_size":1,"depth":2,
            "hidden_size":4,"num_heads":1,"num_classes":4,"MoE_config":{"num_experts":3,"interleave":true}}}"#,
        )
        .unwrap()
    }

    fn about(config: &Config) -> About<'_> {
        let settings = BTreeMap::from([("seed".to_owned(), "3".to_owned())]);
        About { config, hash: "01234567".into(), settings }
    }

    fn plan(labels: usize, seeds: usize) -> Plan {
        let labels: Vec<String> = (0..labels).map(|i| format!("label {i}")).collect();
        Plan::new(vec![PlannedTable::spread("class", &labels, labels.len())], seeds)
    }

    /// Counts of an image: two passes in each band, and for each expert what `of` says.
    fn counts(of: impl Fn(usize, usize) -> u32) -> ImageCounts {
        let taken = (0..BANDS).flat_map(|band| (0..3).map(move |e| (band, e)));
        ImageCounts { passes: vec![2; BANDS], taken: taken.map(|(band, e)| of(band, e)).collect() }
    }

    #[test]
    fn an_atlas_is_the_sum_of_its_images() {
        let (config, plan) = (config(), plan(2, 3));
        let images: Vec<_> =
            (0..6).map(|i| counts(|band, e| (i * 7 + band * 3 + e * 5) as u32 % 8)).collect();
        let atlas = Atlas::measure(about(&config), &plan, &images);
        assert_eq!((atlas.blocks.as_slice(), atlas.images, atlas.tokens), (&[1][..], 6, 4));
        let table = &atlas.tables[0];
        assert_eq!(table.images, [3, 3]);
        for label in 0..2 {
            let mut all = 0;
            for band in 0..BANDS {
                let mut sum = 0;
                for e in 0..3 {
                    let of_image = |i: usize| images[i].taken[band * 3 + e];
                    let brute: u32 = [label, label + 2, label + 4].map(of_image).iter().sum();
                    assert_eq!(table.taken[label][band][0][e], brute);
                    sum += brute;
                }
                // Three images, two passes, four tokens.
                let capacity = atlas.capacity(table, label, Some(band)).unwrap();
                assert!((capacity - sum as f32 / 24.0).abs() < 1e-6);
                all += sum;
            }
            let capacity = atlas.capacity(table, label, None).unwrap();
            assert!((capacity - all as f32 / 96.0).abs() < 1e-6);
        }
        let order = atlas.by_capacity(table);
        assert!(order[0].1 >= order[1].1);
    }

    #[test]
    fn shuffling_hides_what_labels_do_and_leaves_noise_as_it_is() {
        let (config, plan) = (config(), plan(4, 12));
        // In the first band expert 0 takes four times as much of label 0; in the others nobody minds the label.
        let noise = |image: usize, band: usize, e: usize| {
            random_rows((image * 64 + band * 8 + e) as u64, 1, 9, 1)[0]
        };
        let image = |i: usize| {
            counts(|band, e| match (band, e) {
                (0, 0) => {
                    if i.is_multiple_of(4) {
                        40
                    } else {
                        10
                    }
                }
                _ => 20 + noise(i, band, e),
            })
        };
        let images: Vec<_> = (0..48).map(image).collect();
        let atlas = Atlas::measure(about(&config), &plan, &images);
        let table = &atlas.tables[0];
        let (real, shuffled) = (table.lifts(0, 0), table.shuffled.mean[0][0]);
        assert!(real.mean().unwrap() > 2.0 * shuffled, "{real:?} {shuffled}");
        assert!(real.log2[0][0] > table.noise(0, 0, 0) && real.log2[1][0] < -table.noise(0, 0, 0));
        let (real, shuffled) = (table.lifts(2, 0).mean().unwrap(), table.shuffled.mean[2][0]);
        assert!(real < 2.0 * shuffled && shuffled < 2.0 * real, "{real} {shuffled}");
        assert!(table.noise(2, 0, 1) > shuffled);
        // The same counts give the same atlas.
        assert_eq!(atlas, Atlas::measure(about(&config), &plan, &images));
    }

    #[test]
    fn spread_is_the_standard_deviation_over_images() {
        let (config, plan) = (config(), plan(2, 2));
        let all = |n: u32| counts(|_, _| n);
        // C = 12 cells · n / (8 passes · 4 tokens).
        let images = [all(2), all(4), all(6), all(4)];
        let atlas = Atlas::measure(about(&config), &plan, &images);
        let deviation = (2.0_f32 * (12.0 * 2.0 / 32.0) * (12.0 * 2.0 / 32.0)).sqrt();
        assert!((atlas.tables[0].spread[0] - deviation).abs() < 1e-3);
        assert!(atlas.tables[0].spread[1].abs() < 1e-6);
        let one =
            Atlas::measure(about(&config), &Plan::new(plan.tables().to_vec(), 1), &images[..2]);
        assert_eq!(one.tables[0].spread, [0.0, 0.0], "one image has no spread");
    }
}
