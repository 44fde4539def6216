//! `--shard I/N`: the batches of a set that a process draws.

use std::ops::Range;
use std::str::FromStr;

/// The Ith of N parts, from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shard {
    index: usize,
    of: usize,
}

impl FromStr for Shard {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let numbers =
            text.split_once('/').and_then(|(i, n)| Some((i.parse().ok()?, n.parse().ok()?)));
        match numbers {
            Some((index, of)) if (1..=of).contains(&index) => Ok(Self { index, of }),
            _ => Err("expected I/N with I from 1 to N, as in 3/8".into()),
        }
    }
}

impl std::fmt::Display for Shard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.index, self.of)
    }
}

impl Shard {
    /// Its batches of `count` images. Batches are cut from the whole set and then dealt out in turn: which
    /// images share a batch does not depend on the number of shards.
    pub(super) fn batches(
        self,
        count: usize,
        size: usize,
    ) -> impl Iterator<Item = Range<usize>> + Clone {
        let mine = (self.index - 1..count.div_ceil(size)).step_by(self.of);
        mine.map(move |batch| batch * size..count.min((batch + 1) * size))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_deal_out_the_batches_of_the_whole() {
        let all = |n: usize| {
            let shards = (1..=n).map(|i| format!("{i}/{n}").parse::<Shard>().unwrap());
            let mut all: Vec<_> = shards.flat_map(|shard| shard.batches(11, 4)).collect();
            all.sort_by_key(|images| images.start);
            all
        };
        assert_eq!(all(1), [0..4, 4..8, 8..11]);
        for n in 2..6 {
            assert_eq!(all(n), all(1), "{n}");
        }
        assert_eq!(
            "5/5".parse::<Shard>().unwrap().batches(11, 4).count(),
            0,
            "none is left for it"
        );
    }

    #[test]
    fn what_is_no_part_is_refused() {
        for text in ["0/3", "4/3", "1/0", "1", "-1/2", "a/b", ""] {
            assert!(text.parse::<Shard>().is_err(), "{text}");
        }
    }
}
