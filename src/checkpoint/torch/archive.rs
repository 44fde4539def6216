//! The zip archive that `torch.save` writes: its entries and their positions.
//!
//! Zip libraries differ from PyTorch in two ways. They use the last of two entries with the same name where PyTorch uses
//! the first; such archives are rejected here. And they verify checksums, which PyTorch can omit. Entries are ranges of
//! the archive and are not copied.

use std::collections::BTreeMap;
use std::ops::Range;

/// The files of an archive.
#[derive(Debug)]
pub(super) struct Archive {
    /// By name, without the folder that holds them all.
    files: BTreeMap<String, Range<usize>>,
}

/// A file in the archive's directory.
struct Entry<'a> {
    name: &'a str,
    method: u16,
    is_encrypted: bool,
    /// Bytes that it takes in the archive, and bytes that it has.
    packed: u64,
    size: u64,
    /// Where its own header begins.
    header: u64,
}

impl Archive {
    /// Reads the directory at the end of an archive.
    pub(super) fn read(bytes: &[u8]) -> Result<Self, String> {
        let (at, count) = directory(bytes).ok_or_else(|| no_archive(bytes))?;
        let mut at = at;
        let mut files = BTreeMap::new();
        let mut folder: Option<&str> = None;
        for _ in 0..count {
            let entry = Entry::read(bytes, &mut at).ok_or_else(damaged)?;
            // Everything lies in one folder, whose name does not matter. It is that of the first file, as for PyTorch.
            let Some((outer, inner)) = entry.name.split_once('/') else { continue };
            if *folder.get_or_insert(outer) != outer {
                if inner == "data.pkl" {
                    return Err(format!(
                        "it contains two checkpoints, in the folders {} and {outer}; save only one of them",
                        folder.unwrap_or_default()
                    ));
                }
                continue;
            }
            if inner.is_empty() || inner.ends_with('/') {
                continue;
            }
            let place = entry.place(bytes)?;
            if files.insert(inner.to_owned(), place).is_some() {
                return Err(format!(
                    "it contains {} twice, and programs disagree on which one to use; save it again",
                    entry.name
                ));
            }
        }
        Ok(Self { files })
    }

    /// Where a file lies.
    pub(super) fn get(&self, name: &str) -> Option<Range<usize>> {
        self.files.get(name).cloned()
    }
}

impl<'a> Entry<'a> {
    /// Reads an entry of the directory and goes on to the next.
    fn read(bytes: &'a [u8], at: &mut usize) -> Option<Self> {
        const FIXED: usize = 46;
        let head = bytes.get(*at..)?.first_chunk::<FIXED>()?;
        if head[..4] != *b"PK\x01\x02" {
            return None;
        }
        let [name_len, extra_len, comment_len] =
            [28, 30, 32].map(|at| usize::from(u16_at(head, at)));
        let name_at = *at + FIXED;
        let extra_at = name_at + name_len;
        let name = std::str::from_utf8(bytes.get(name_at..extra_at)?).ok()?;
        let extra = bytes.get(extra_at..extra_at + extra_len)?;
        *at = extra_at + extra_len + comment_len;
        let [packed, size, header] = [20, 24, 42].map(|at| u64::from(u32_at(head, at)));
        let mut entry = Self {
            name,
            method: u16_at(head, 10),
            is_encrypted: u16_at(head, 8) & 1 != 0,
            packed,
            size,
            header,
        };
        entry.widen(extra)?;
        Some(entry)
    }

    /// Takes numbers that need more than 32 bits from the extra field of zip64.
    fn widen(&mut self, mut extra: &[u8]) -> Option<()> {
        let wide = u64::from(u32::MAX);
        let numbers = [&mut self.size, &mut self.packed, &mut self.header];
        let mut missing: Vec<_> = numbers.into_iter().filter(|number| **number == wide).collect();
        if missing.is_empty() {
            return Some(());
        }
        while extra.len() >= 4 {
            let (kind, len) = (u16_at(extra, 0), usize::from(u16_at(extra, 2)));
            let field = extra.get(4..4 + len)?;
            if kind == 1 {
                let words = field.as_chunks::<8>().0;
                if words.len() < missing.len() {
                    return None;
                }
                for (number, word) in missing.iter_mut().zip(words) {
                    **number = u64::from_le_bytes(*word);
                }
                return Some(());
            }
            extra = &extra[4 + len..];
        }
        None
    }

    /// Where its bytes lie.
    fn place(&self, bytes: &[u8]) -> Result<Range<usize>, String> {
        let name = self.name;
        if self.is_encrypted {
            return Err(format!("{name} in it is encrypted, which torch.save never does"));
        }
        if self.method != 0 || self.packed != self.size {
            return Err(format!("{name} in it is compressed, which torch.save never does"));
        }
        let short = || format!("it ends inside {name}; download or copy it again");
        let header = usize::try_from(self.header).map_err(|_| short())?;
        let head = bytes.get(header..).and_then(|rest| rest.first_chunk::<30>());
        let head = head.ok_or_else(short)?;
        if head[..4] != *b"PK\x03\x04" {
            return Err(damaged());
        }
        let start = header + 30 + usize::from(u16_at(head, 26)) + usize::from(u16_at(head, 28));
        let end = usize::try_from(self.size).ok().and_then(|size| start.checked_add(size));
        let end = end.filter(|&end| end <= bytes.len()).ok_or_else(short)?;
        Ok(start..end)
    }
}

/// Where the directory begins, and how many files it lists.
fn directory(bytes: &[u8]) -> Option<(usize, u64)> {
    const END: usize = 22;
    // The end of an archive may be followed by a comment of up to 65,535 bytes, whose length it states.
    let last = bytes.len().checked_sub(END)?;
    let first = last.saturating_sub(usize::from(u16::MAX));
    let is_end = |at: &usize| {
        bytes[*at..].starts_with(b"PK\x05\x06")
            && at + END + usize::from(u16_at(bytes, at + 20)) == bytes.len()
    };
    let end = (first..=last).rev().find(is_end)?;
    let (count, start) = (u16_at(bytes, end + 10), u32_at(bytes, end + 16));
    // Before it, where numbers need more bits, the way to the end record of zip64.
    let locator = end.checked_sub(20).filter(|&at| bytes[at..].starts_with(b"PK\x06\x07"));
    if let Some(locator) = locator.filter(|_| count == u16::MAX || start == u32::MAX) {
        let wide = usize::try_from(u64_at(bytes, locator + 8)).ok()?;
        let record = bytes.get(wide..)?.first_chunk::<56>()?;
        if record[..4] != *b"PK\x06\x06" {
            return None;
        }
        return Some((usize::try_from(u64_at(record, 48)).ok()?, u64_at(record, 32)));
    }
    Some((start as usize, count.into()))
}

fn no_archive(bytes: &[u8]) -> String {
    let why = match bytes {
        [b'P', b'K', 3, 4, ..] => ": its end is missing; download or copy it again",
        [0x80, 2, ..] => "; files of PyTorch before 1.6 must be saved again with a newer version",
        _ => "",
    };
    format!("it is not a PyTorch archive{why}")
}

fn damaged() -> String {
    "it is not a PyTorch archive: its directory is damaged; download or copy it again".into()
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from(u16_at(bytes, at)) | u32::from(u16_at(bytes, at + 2)) << 16
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

#[cfg(test)]
#[path = "archive_tests.rs"]
pub(super) mod tests;
