//! Random changes of bytes, the same ones for the same seed.

/// The generator SplitMix64.
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `end`; 0 where that is 0.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        self.next().checked_rem(end as u64).unwrap_or(0) as usize
    }

    /// A range of at most `most` places.
    fn part(&mut self, len: usize, most: usize) -> std::ops::Range<usize> {
        let start = self.below(len);
        let count = 1 + self.below(most.min(len - start).max(1));
        start..(start + count).min(len)
    }
}

/// Numbers at which readers err.
const NUMBERS: [u64; 14] = [
    0,
    1,
    2,
    0x7f,
    0x80,
    0xff,
    0x7fff,
    0xffff,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    0x7fff_ffff_ffff_ffff,
    0x8000_0000_0000_0000,
    u64::MAX,
];

/// Texts that mean something in one of the formats.
const WORDS: [&str; 44] = [
    "0",
    "1",
    "-1",
    "1e999",
    "NaN",
    "null",
    "true",
    "[]",
    "{}",
    "\"\"",
    "[[[[[[[[",
    "]]]]",
    "{\"a\":",
    "18446744073709551615",
    "4294967296",
    "65536",
    "0.5",
    "\\u0000",
    "\\ud800",
    "%00",
    "%ff",
    "&",
    "=",
    "#",
    ",",
    ":",
    "..",
    "/",
    "!!python/object",
    "&a [*a]",
    "- - - - - -",
    ".inf",
    "\u{0}",
    "\u{feff}",
    "\u{202e}",
    "\u{1f98a}",
    "é",
    "data_offsets",
    "shape",
    "dtype",
    "F32",
    "__metadata__",
    "format",
    "weight_map",
];

/// Changes some bytes of `input`; `others` are inputs of the same kind.
pub(crate) fn mutate(random: &mut Random, input: &[u8], others: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = input.to_vec();
    for _ in 0..=random.below(4) {
        change(random, &mut bytes, others);
    }
    bytes
}

fn change(random: &mut Random, bytes: &mut Vec<u8>, others: &[Vec<u8>]) {
    let at = random.below(bytes.len());
    match random.below(12) {
        _ if bytes.is_empty() => bytes.extend(WORDS[random.below(WORDS.len())].bytes()),
        0 => bytes[at] ^= 1 << random.below(8),
        1 => bytes[at] = random.next() as u8,
        2 => bytes.truncate(at),
        3 => drop(bytes.drain(random.part(bytes.len(), 64))),
        // The same again, many times at once.
        4 => {
            let part = bytes[random.part(bytes.len(), 64)].to_vec();
            let times = 1 << random.below(8);
            bytes.splice(at..at, part.repeat(times));
        }
        5 | 6 => {
            let word = WORDS[random.below(WORDS.len())];
            let end =
                if random.below(2) == 0 { at } else { random.part(bytes.len(), 8).end.max(at) };
            bytes.splice(at..end, word.bytes());
        }
        7 => {
            let number = NUMBERS[random.below(NUMBERS.len())];
            let number = number.wrapping_add(random.below(3) as u64).wrapping_sub(1);
            let width = [1, 2, 4, 8][random.below(4)].min(bytes.len() - at);
            let (little, big) = (number.to_le_bytes(), number.to_be_bytes());
            let from = if random.below(4) == 0 { &big[8 - width..] } else { &little[..width] };
            bytes[at..at + width].copy_from_slice(from);
        }
        // A number in text.
        8 | 9 => {
            let is_digit = |i: &usize| bytes[*i].is_ascii_digit();
            let Some(start) = (at..bytes.len()).find(is_digit) else { return };
            let end = (start..bytes.len()).find(|i| !is_digit(i)).unwrap_or(bytes.len());
            let number = NUMBERS[random.below(NUMBERS.len())].wrapping_add(random.below(3) as u64);
            bytes.splice(start..end, number.to_string().bytes());
        }
        10 => {
            let other = &others[random.below(others.len())];
            let part = if other.is_empty() { 0..0 } else { random.part(other.len(), 256) };
            let end = random.part(bytes.len(), 256).end.max(at);
            bytes.splice(at..end, other[part].iter().copied());
        }
        // Two places exchanged.
        _ => {
            let other = random.below(bytes.len());
            bytes.swap(at, other);
        }
    }
    bytes.truncate(1 << 20);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_makes_the_same_changes_and_they_differ() {
        let seeds = [b"{\"a\": [1, 23, 4]}".to_vec(), Vec::new(), b"x".to_vec()];
        let make = |seed| {
            let mut random = Random::new(seed);
            (0..300).map(|i| mutate(&mut random, &seeds[i % 3], &seeds)).collect::<Vec<_>>()
        };
        assert_eq!(make(1), make(1));
        assert_ne!(make(1), make(2));
        let different: std::collections::BTreeSet<_> = make(1).into_iter().collect();
        assert!(different.len() > 200, "{}", different.len());
    }
}
