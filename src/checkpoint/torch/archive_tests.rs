//! Archives byte by byte: usual ones, those with numbers of 64 bits, and damaged ones.

use super::*;

/// A file of an archive, with the fields of its entry that tests change.
#[derive(Clone, Copy)]
struct File<'a> {
    name: &'a str,
    data: &'a [u8],
    flags: u16,
    method: u16,
    /// Bytes that it takes, as the entry says.
    packed: u32,
    signature: &'a [u8; 4],
}

fn file<'a>(name: &'a str, data: &'a [u8]) -> File<'a> {
    File { name, data, flags: 0, method: 0, packed: data.len() as u32, signature: b"PK\x03\x04" }
}

/// An archive; `wide` writes all numbers with 64 bits where the format allows it.
fn write(files: &[File], wide: bool, comment: &[u8]) -> Vec<u8> {
    let (mut bytes, mut list) = (b"before it".to_vec(), Vec::new());
    let u16s = |numbers: &[u16]| numbers.iter().flat_map(|n| n.to_le_bytes()).collect::<Vec<_>>();
    let u32s = |numbers: &[u32]| numbers.iter().flat_map(|n| n.to_le_bytes()).collect::<Vec<_>>();
    let u64s = |numbers: &[u64]| numbers.iter().flat_map(|n| n.to_le_bytes()).collect::<Vec<_>>();
    for file in files {
        let (at, size, name) = (bytes.len() as u64, file.data.len() as u32, file.name.as_bytes());
        bytes.extend(file.signature);
        bytes.extend(u16s(&[20, file.flags, file.method, 0, 0]));
        bytes.extend(u32s(&[0, file.packed, size]));
        bytes.extend(u16s(&[name.len() as u16, 3]));
        bytes.extend([name, b"abc", file.data].concat());
        // Before the field with the numbers another one, of one byte.
        let extra = [u16s(&[9, 1]), vec![7], u16s(&[1, 24])].concat();
        let extra = [extra, u64s(&[size.into(), file.packed.into(), at])].concat();
        let extra = if wide { &extra[..] } else { &[] };
        let number = |n: u32| if wide { u32::MAX } else { n };
        list.extend(b"PK\x01\x02");
        list.extend(u16s(&[20, 20, file.flags, file.method, 0, 0]));
        list.extend(u32s(&[0, number(file.packed), number(size)]));
        list.extend(u16s(&[name.len() as u16, extra.len() as u16, 2, 0, 0]));
        list.extend(u32s(&[0, number(at as u32)]));
        list.extend([name, extra, b"cc"].concat());
    }
    let (count, at) = (files.len() as u16, bytes.len());
    bytes.extend(&list);
    if wide {
        let record = bytes.len() as u64;
        bytes.extend(b"PK\x06\x06");
        bytes.extend(u64s(&[44]));
        bytes.extend([u16s(&[45, 45]), u32s(&[0, 0])].concat());
        bytes.extend(u64s(&[count.into(), count.into(), list.len() as u64, at as u64]));
        bytes.extend([&b"PK\x06\x07"[..], &u32s(&[0]), &u64s(&[record]), &u32s(&[1])].concat());
    }
    let count = if wide { u16::MAX } else { count };
    let place = if wide { u32::MAX } else { at as u32 };
    bytes.extend(b"PK\x05\x06");
    bytes.extend(u16s(&[0, 0, count, count]));
    bytes.extend(u32s(&[list.len() as u32, place]));
    bytes.extend([&u16s(&[comment.len() as u16]), comment].concat());
    bytes
}

/// An archive as `torch.save` writes it.
pub(in super::super) fn archive(files: &[(&str, &[u8])]) -> Vec<u8> {
    write(&files.iter().map(|(name, data)| file(name, data)).collect::<Vec<_>>(), false, b"")
}

fn refused(files: &[File]) -> String {
    Archive::read(&write(files, false, b"")).unwrap_err()
}

#[test]
fn files_are_found_by_name_wherever_their_numbers_stand() {
    let files = [
        file("loose", b"no"),
        file("x/", b""),
        file("x/data.pkl", b"pickle"),
        file("x/data/0", b"four"),
        file("x/folder/", b""),
        file("y/data/1", b"other"),
    ];
    for (wide, comment) in [(false, &b""[..]), (false, b"PK\x05\x06 is no end"), (true, b"c")] {
        let bytes = write(&files, wide, comment);
        let archive = Archive::read(&bytes).unwrap();
        let read = |name| archive.get(name).map(|place| &bytes[place]);
        assert_eq!(read("data.pkl"), Some(&b"pickle"[..]), "{wide} {comment:?}");
        assert_eq!(read("data/0"), Some(&b"four"[..]));
        assert_eq!([read("data/1"), read(""), read("folder/"), read("loose")], [None; 4]);
    }
}

#[test]
fn entries_that_torch_does_not_write_are_refused() {
    let good = file("x/a", b"data");
    assert!(refused(&[good, good]).contains("contains x/a twice"));
    let second = refused(&[good, file("y/data.pkl", b"")]);
    assert!(second.contains("two checkpoints, in the folders x and y"), "{second}");
    assert!(refused(&[File { flags: 1, ..good }]).contains("encrypted"));
    // Another flag, of names in UTF-8, is usual.
    assert!(Archive::read(&write(&[File { flags: 0x800, ..good }], false, b"")).is_ok());
    assert!(refused(&[File { method: 8, ..good }]).contains("compressed"));
    assert!(refused(&[File { packed: 3, ..good }]).contains("compressed"));
    assert!(refused(&[File { signature: b"PK\x03\x05", ..good }]).contains("damaged"));
}

#[test]
fn what_is_cut_off_is_refused() {
    for wide in [false, true] {
        let bytes = write(&[file("x/a", b"data")], wide, b"");
        for end in 0..bytes.len() {
            assert!(Archive::read(&bytes[..end]).is_err(), "{end} of {}", bytes.len());
        }
        // Its beginning is missing: positions lead elsewhere.
        assert!(Archive::read(&bytes[1..]).is_err());
    }
    let mut far = write(&[file("x/a", b"data")], false, b"");
    let size = far.windows(4).rposition(|w| w == [4, 0, 0, 0]).unwrap();
    // Packed and whole size in the directory.
    for at in [size - 4, size] {
        far[at] = 200;
    }
    assert!(Archive::read(&far).unwrap_err().contains("it ends inside x/a"));
    assert!(Archive::read(b"").unwrap_err().contains("not a PyTorch archive"));
}
