//! Chooses label rows for images whose labels were left open: random rows, or combinations that the model draws well
//! ([`Showcase`](crate::model::Showcase)).

use std::collections::BTreeMap;

use crate::model::{Config, LabelTable};
use crate::scheduler::random_rows;

/// Keeps draws from the showcase independent of draws from single tables, which use the table's number.
const PURPOSE: u32 = 1 << 16;

/// What is requested from a table; the images take the entries in turn. `None` is a row from the showcase; an empty list
/// stands for random rows.
pub(super) type Wanted = Vec<Option<u32>>;

/// The row of each table and image, `[table][image]`.
///
/// Rows from the showcase are drawn together: the image gets a combination that contains its chosen rows. Null rows and
/// random rows impose nothing. If no combination fits, any is drawn; without a showcase, the rows are random.
pub(super) fn rows(config: &Config, wanted: &[Wanted], seed: u64, images: usize) -> Vec<Vec<u32>> {
    let shown = config.defaults.showcase.as_ref().map_or(&[][..], |showcase| &showcase.rows);
    let is_random = |list: &Wanted| list.is_empty() || shown.is_empty() && list.contains(&None);
    let mut rows: Vec<Vec<u32>> =
        (0..)
            .zip(config.labels.iter().zip(wanted))
            .map(|(purpose, (table, list))| {
                if is_random(list) { random(table, purpose, seed, images) } else { vec![0; images] }
            })
            .collect();
    let mut decks = BTreeMap::new();
    for image in 0..images {
        let wants: Vec<Option<Option<u32>>> =
            wanted.iter().map(|list| list.get(image % list.len().max(1)).copied()).collect();
        for (table, want) in wants.iter().enumerate() {
            match want {
                Some(Some(row)) => rows[table][image] = *row,
                Some(None) if !shown.is_empty() => {
                    let fixed: Vec<Option<u32>> = (wants.iter().zip(&config.labels))
                        .map(|(want, table)| want.flatten().filter(|row| *row != table.null))
                        .collect();
                    let deck = decks.entry(fixed).or_insert_with_key(|fixed| {
                        let deck = agreeing(shown, fixed);
                        let picks = random_rows(seed, PURPOSE, deck.len() as u32, images);
                        picks.into_iter().map(|pick| deck[pick as usize]).collect::<Vec<_>>()
                    });
                    rows[table][image] = deck[image][table];
                }
                // Random.
                _ => {}
            }
        }
    }
    rows
}

/// Random rows of the table with this number.
fn random(table: &LabelTable, number: u32, seed: u64, images: usize) -> Vec<u32> {
    match table.null {
        // A table of the null row alone has nothing to choose from.
        0 => vec![0; images],
        rows => random_rows(seed, number, rows, images),
    }
}

/// The combinations that contain these rows, or all combinations if none does.
fn agreeing<'a>(shown: &'a [Vec<u32>], fixed: &[Option<u32>]) -> Vec<&'a [u32]> {
    let agrees = |rows: &[u32]| fixed.iter().zip(rows).all(|(f, row)| f.is_none_or(|f| f == *row));
    let found: Vec<&[u32]> = shown.iter().map(Vec::as_slice).filter(|rows| agrees(rows)).collect();
    if found.is_empty() { shown.iter().map(Vec::as_slice).collect() } else { found }
}

/// The inverse of [`rows`]: for each table the request that this seed turns into these rows, or `None` if they have to be
/// listed.
pub(super) fn recognised(config: &Config, rows: &[Vec<u32>], seed: u64) -> Vec<Option<Wanted>> {
    /// Tables whose combinations are tried.
    const MOST: usize = 4;
    let images = rows.first().map_or(0, Vec::len);
    let plain: Vec<Option<Wanted>> = (0..)
        .zip(config.labels.iter().zip(rows))
        .map(|(number, (table, rows))| {
            let is_random = table.null > 0 && *rows == random(table, number, seed, images);
            is_random.then(Vec::new)
        })
        .collect();
    if config.defaults.showcase.is_none() || images == 0 {
        return plain;
    }
    let with_best = |mask: u32| -> Vec<Option<Wanted>> {
        let is_best = |table: usize| table < MOST && mask >> table & 1 == 1;
        let of = |(table, plain): (usize, &Option<Wanted>)| {
            if is_best(table) { Some(vec![None]) } else { plain.clone() }
        };
        plain.iter().enumerate().map(of).collect()
    };
    let draws_rows = |asked: &Vec<Option<Wanted>>| {
        let listed = |rows: &Vec<u32>| rows.iter().copied().map(Some).collect();
        let wanted: Vec<Wanted> = (asked.iter().zip(rows))
            .map(|(asked, rows)| asked.clone().unwrap_or_else(|| listed(rows)))
            .collect();
        self::rows(config, &wanted, seed, images) == rows
    };
    // As many tables from the showcase as possible, the first ones before others.
    let mut masks: Vec<u32> = (1..1 << rows.len().min(MOST)).collect();
    masks.sort_by_key(|mask| (mask.count_zeros(), *mask));
    masks.into_iter().map(with_best).find(draws_rows).unwrap_or(plain)
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
