//! Which rows of the label tables the images of a run take, where the settings leave that to the seed: any row, or one
//! of the combinations that the model draws well ([`Showcase`](crate::model::Showcase)).

use std::collections::BTreeMap;

use crate::model::Config;
use crate::scheduler::random_rows;

/// Separates draws from the showcase from those of single tables, whose purpose is the table's number.
const PURPOSE: u32 = 1 << 16;

/// What the images of a run want from a table, in turn: a row, or `None` for one that is drawn well. No entry at all
/// stands for random rows.
pub(super) type Wanted = Vec<Option<u32>>;

/// The row of each table and image: `[table][image]`.
///
/// An image whose tables leave something to the showcase gets a combination that agrees with its other rows, null rows and
/// random ones aside. Where none agrees it gets any combination, and where the model has no showcase, random rows.
pub(super) fn rows(config: &Config, wanted: &[Wanted], seed: u64, images: usize) -> Vec<Vec<u32>> {
    let random: Vec<Vec<u32>> = (0..)
        .zip(&config.labels)
        // A table of the null row alone has nothing to choose from.
        .map(|(purpose, table)| match table.null {
            0 => vec![0; images],
            rows => random_rows(seed, purpose, rows, images),
        })
        .collect();
    let shown = config.defaults.showcase.as_ref().map_or(&[][..], |showcase| &showcase.rows);
    let mut decks = BTreeMap::new();
    let mut rows = random.clone();
    for image in 0..images {
        let wants = |table: usize| {
            let list = &wanted[table];
            list.get(image % list.len().max(1)).copied()
        };
        let fixed: Vec<Option<u32>> = (0..wanted.len())
            .map(|table| wants(table).flatten().filter(|row| *row != config.labels[table].null))
            .collect();
        for table in 0..wanted.len() {
            match wants(table) {
                None => {}
                Some(Some(row)) => rows[table][image] = row,
                Some(None) if shown.is_empty() => {}
                Some(None) => {
                    let deck = decks.entry(fixed.clone()).or_insert_with(|| {
                        let deck = agreeing(shown, &fixed);
                        let picks = random_rows(seed, PURPOSE, deck.len() as u32, images);
                        picks.into_iter().map(|pick| deck[pick as usize]).collect::<Vec<_>>()
                    });
                    rows[table][image] = deck[image][table];
                }
            }
        }
    }
    rows
}

/// The combinations with these rows, or all where there are none.
fn agreeing<'a>(shown: &'a [Vec<u32>], fixed: &[Option<u32>]) -> Vec<&'a [u32]> {
    let agrees = |rows: &[u32]| fixed.iter().zip(rows).all(|(f, row)| f.is_none_or(|f| f == *row));
    let found: Vec<&[u32]> = shown.iter().map(Vec::as_slice).filter(|rows| agrees(rows)).collect();
    if found.is_empty() { shown.iter().map(Vec::as_slice).collect() } else { found }
}

/// For each table what settings with these rows asked for: `None` for rows that have to be listed. The inverse of [`rows`]
/// as far as a seed can be recognised.
pub(super) fn recognised(config: &Config, rows: &[Vec<u32>], seed: u64) -> Vec<Option<Wanted>> {
    /// Tables whose combinations are tried.
    const MOST: usize = 4;
    let images = rows.first().map_or(0, Vec::len);
    let is_random = (0..).zip(&config.labels).zip(rows).map(|((purpose, table), rows)| {
        table.null > 0 && *rows == random_rows(seed, purpose, table.null, images)
    });
    let plain: Vec<Option<Wanted>> = is_random.map(|is| is.then(Vec::new)).collect();
    if config.defaults.showcase.is_none() || images == 0 {
        return plain;
    }
    let list = |table: usize| rows[table].iter().copied().map(Some).collect();
    let tables = rows.len().min(MOST);
    let with_best = |mask: u32| -> Vec<Wanted> {
        (0..rows.len())
            .map(|table| match &plain[table] {
                _ if table < tables && mask >> table & 1 == 1 => vec![None],
                Some(random) => random.clone(),
                None => list(table),
            })
            .collect()
    };
    // As many tables from the showcase as possible, the first ones before others.
    let mut masks: Vec<u32> = (1..1 << tables).collect();
    masks.sort_by_key(|mask| (tables as u32 - mask.count_ones(), *mask));
    let mask =
        masks.into_iter().find(|&mask| self::rows(config, &with_best(mask), seed, images) == rows);
    let Some(mask) = mask else { return plain };
    let is_best = |table: usize| table < tables && mask >> table & 1 == 1;
    (0..).zip(plain).map(|(t, plain)| if is_best(t) { Some(vec![None]) } else { plain }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(showcase: &str) -> Config {
        let text = format!(
            r#"{{"kind":"dense","t_kind":"flow",
            "params":{{"input_size":2,"num_classes":9,"patch_size":1,"depth":1,"hidden_size":4,"num_heads":1}},
            "labels":[{{"name":"subject","tensor":"a","null":9}},{{"name":"style","tensor":"b","null":2}}],
            "defaults":{{"steps":17,"guidance":2.5,"solver":"heun"{showcase}}}}}"#
        );
        Config::from_json(&text).unwrap()
    }

    fn shown() -> Config {
        config(r#","showcase":{"judge":"by eye","rows":[[1,0],[4,1],[7,1]]}"#)
    }

    #[test]
    fn without_a_showcase_rows_are_random() {
        let config = config("");
        let best = rows(&config, &[vec![None], vec![None]], 3, 5);
        assert_eq!(best, rows(&config, &[vec![], vec![]], 3, 5));
        assert_eq!(best, [random_rows(3, 0, 9, 5), random_rows(3, 1, 2, 5)]);
    }

    #[test]
    fn combinations_come_from_the_showcase_and_none_twice_before_all_were_drawn() {
        let config = shown();
        let drawn = rows(&config, &[vec![None], vec![None]], 5, 3);
        let mut pairs: Vec<_> = drawn[0].iter().zip(&drawn[1]).collect();
        pairs.sort_unstable();
        assert_eq!(pairs, [(&1, &0), (&4, &1), (&7, &1)]);
        // Written down once: shared links depend on it.
        assert_eq!(rows(&config, &[vec![None], vec![None]], 5, 6)[0], PAIRS_OF_SEED_5);
    }

    const PAIRS_OF_SEED_5: [u32; 6] = [1, 4, 7, 4, 1, 7];

    #[test]
    fn chosen_rows_are_kept_and_limit_the_rest() {
        let config = shown();
        let drawn = rows(&config, &[vec![None], vec![Some(1)]], 1, 2);
        assert_eq!(drawn[1], [1, 1]);
        assert!(drawn[0] == [4, 7] || drawn[0] == [7, 4], "{drawn:?}");
        // Nothing in the showcase has subject 8: the style is that of any combination.
        let drawn = rows(&config, &[vec![Some(8)], vec![None]], 1, 4);
        assert_eq!(drawn[0], [8; 4]);
        assert!(drawn[1].contains(&1));
        // The null row leaves the choice to the model and limits nothing.
        let drawn = rows(&config, &[vec![None], vec![Some(2)]], 1, 3);
        assert_eq!(drawn[1], [2; 3]);
        assert!([1, 4, 7].iter().all(|subject| drawn[0].contains(subject)), "{drawn:?}");
    }

    #[test]
    fn what_was_asked_for_is_recognised() {
        let config = shown();
        for wanted in [
            vec![vec![None], vec![None]],
            vec![vec![], vec![None]],
            vec![vec![None], vec![]],
            vec![vec![], vec![]],
        ] {
            let drawn = rows(&config, &wanted, 11, 6);
            let found: Vec<_> = recognised(&config, &drawn, 11).into_iter().flatten().collect();
            assert_eq!(found, wanted);
        }
        let drawn = rows(&config, &[vec![None], vec![Some(1)]], 11, 6);
        assert_eq!(recognised(&config, &drawn, 11), [Some(vec![None]), None]);
        assert_eq!(recognised(&config, &[vec![1, 2], vec![0, 0]], 11), [None, None]);
    }
}
