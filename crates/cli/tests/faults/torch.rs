//! Files as `torch.save` writes them, byte by byte, and what a reader makes of those that are unusual.

use std::path::Path;

use diffmoe::checkpoint::{CheckpointError, TorchFile};
use diffmoe::platform::Bytes;

use super::model::{Tensor, config, tensors};

/// An archive of files that are not compressed, without checksums: `torch.serialization.set_crc32_options(False)`.
pub(crate) fn archive(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut list = Vec::new();
    for (name, data) in files {
        let at = bytes.len() as u32;
        let sizes = [0, data.len() as u32, data.len() as u32].map(u32::to_le_bytes).concat();
        let name_len = (name.len() as u16).to_le_bytes();
        bytes.extend(b"PK\x03\x04\0\0\0\x08\0\0\0\0\0\0");
        bytes.extend([&sizes[..], &name_len, &[0, 0], name.as_bytes(), data].concat());
        list.extend(b"PK\x01\x02\0\0\0\0\0\x08\0\0\0\0\0\0");
        list.extend([&sizes[..], &name_len, &[0; 12], &at.to_le_bytes(), name.as_bytes()].concat());
    }
    let count = (files.len() as u16).to_le_bytes();
    let (len, at) = ((list.len() as u32).to_le_bytes(), (bytes.len() as u32).to_le_bytes());
    let end = [&b"PK\x05\x06\0\0\0\0"[..], &count, &count, &len, &at, &[0, 0]].concat();
    [bytes, list, end].concat()
}

pub(crate) fn text(text: &str) -> Vec<u8> {
    [b"X", &(text.len() as u32).to_le_bytes()[..], text.as_bytes()].concat()
}

fn tuple(numbers: &[usize]) -> Vec<u8> {
    let numbers = numbers.iter().flat_map(|&n| [b"J", &(n as u32).to_le_bytes()[..]].concat());
    [&b"("[..], &numbers.collect::<Vec<_>>(), b"t"].concat()
}

/// A dictionary, given as names with pickled values.
pub(crate) fn dict(entries: &[(String, Vec<u8>)]) -> Vec<u8> {
    let entries = entries.iter().flat_map(|(name, value)| [text(name), value.clone()].concat());
    [&b"}("[..], &entries.collect::<Vec<_>>(), b"u"].concat()
}

/// A view of `shape` into a storage of `len` numbers; `metadata` is a pickled value or nothing.
fn view(key: usize, len: usize, shape: &[usize], strides: &[usize], metadata: &[u8]) -> Vec<u8> {
    [
        &b"ctorch._utils\n_rebuild_tensor_v2\n(("[..],
        &text("storage"),
        b"ctorch\nFloatStorage\n",
        &text(&key.to_string()),
        &text("cpu"),
        &[b"J", &(len as u32).to_le_bytes()[..]].concat(),
        b"tQK\x00",
        &tuple(shape),
        &tuple(strides),
        b"\x89}",
        metadata,
        b"tR",
    ]
    .concat()
}

/// The state_dict of these tensors, pickled; their numbers are in the files `data/0`, `data/1`, ….
pub(crate) fn state_dict(tensors: &[Tensor]) -> Vec<(String, Vec<u8>)> {
    let entry = |(key, (name, shape, values)): (usize, &Tensor)| {
        let mut strides = vec![1; shape.len()];
        for i in (1..shape.len()).rev() {
            strides[i - 1] = strides[i] * shape[i];
        }
        (name.clone(), view(key, values.len(), shape, &strides, b""))
    };
    tensors.iter().enumerate().map(entry).collect()
}

/// A whole file: a pickled value, and the numbers of these tensors.
pub(crate) fn file(value: &[u8], tensors: &[Tensor]) -> Vec<u8> {
    let pickle = [b"\x80\x02", value, b"."].concat();
    let number = |v: &f32| v.to_le_bytes();
    let data: Vec<(String, Vec<u8>)> = tensors
        .iter()
        .enumerate()
        .map(|(i, (_, _, values))| {
            (format!("x/data/{i}"), values.iter().flat_map(number).collect())
        })
        .collect();
    let data = data.iter().map(|(name, bytes)| (name.as_str(), &bytes[..]));
    let files: Vec<_> = [("x/data.pkl", &pickle[..])].into_iter().chain(data).collect();
    archive(&files)
}

/// The state_dict of these tensors as a file.
pub(crate) fn bare(tensors: &[Tensor]) -> Vec<u8> {
    file(&dict(&state_dict(tensors)), tensors)
}

fn open(bytes: Vec<u8>) -> Result<TorchFile, CheckpointError> {
    TorchFile::from_bytes("case.pt", Bytes::new(bytes), "ema")
}

fn refused(bytes: Vec<u8>) -> String {
    open(bytes).map(drop).expect_err("a refusal").to_string()
}

fn small() -> Vec<Tensor> {
    tensors(&config("dense", 4, 1, ""))
}

fn is_same(file: &TorchFile, tensors: &[Tensor]) -> bool {
    let shapes = file.shapes().expect("shapes");
    shapes.len() == tensors.len()
        && tensors.iter().all(|(name, shape, values)| {
            shapes[name] == *shape && file.read(name).expect("numbers") == *values
        })
}

#[test]
fn archives_without_checksums_are_read() {
    let tensors = small();
    assert!(is_same(&open(bare(&tensors)).expect("a file"), &tensors));
}

/// `torch._neg_view`, also what `z.conj().imag` saves.
#[test]
fn the_sign_of_a_negative_view_is_kept() {
    let tensors = small();
    let name = "blocks.0.attn.qkv.bias";
    let mut entries = state_dict(&tensors);
    let key = tensors.iter().position(|(n, ..)| n == name).expect("a tensor");
    let negated = |meta: &[u8]| {
        let mut entries = entries.clone();
        entries[key].1 = view(key, 12, &[12], &[1], meta);
        file(&dict(&entries), &tensors)
    };
    let neg = dict(&[("neg".to_owned(), b"\x88".to_vec()), ("conj".to_owned(), b"\x89".to_vec())]);
    let read = open(negated(&neg)).expect("a file").read(name).expect("numbers");
    assert!(read.iter().zip(&tensors[key].2).all(|(a, b)| a.to_bits() == (-b).to_bits()));
    let plain = open(negated(b"N")).expect("a file").read(name).expect("numbers");
    assert_eq!(plain, tensors[key].2);
    let conj = dict(&[("conj".to_owned(), b"\x88".to_vec())]);
    assert!(refused(negated(&conj)).contains("a view of a kind that is not supported"));
    // An expanded tensor has its numbers once.
    entries[key].1 = view(key, 12, &[12], &[0], b"");
    let read = open(file(&dict(&entries), &tensors)).expect("a file").read(name).expect("numbers");
    assert_eq!(read, [tensors[key].2[0]; 12]);
}

/// Names as `torch.compile`, FSDP, data-parallel training and Lightning leave them.
#[test]
fn names_of_wrapped_models_are_the_official_ones() {
    let tensors = small();
    let wrap = |name: &str, prefix: &str| format!("{prefix}{name}");
    for prefix in
        ["_orig_mod.", "module._orig_mod.", "_orig_mod.module.", "module.module.", "model."]
    {
        let entries: Vec<_> =
            state_dict(&tensors).into_iter().map(|(n, v)| (wrap(&n, prefix), v)).collect();
        let read = open(file(&dict(&entries), &tensors)).expect(prefix);
        assert!(is_same(&read, &tensors), "{prefix}");
        let lightning = dict(&[("state_dict".to_owned(), dict(&entries))]);
        let read = open(file(&lightning, &tensors)).expect(prefix);
        assert!(is_same(&read, &tensors) && read.weights() == Some("state_dict"), "{prefix}");
    }
    let inner = state_dict(&tensors)
        .into_iter()
        .map(|(n, v)| (n.replace("blocks.0.", "blocks.0._fsdp_wrapped_module."), v))
        .collect::<Vec<_>>();
    assert!(is_same(&open(file(&dict(&inner), &tensors)).expect("a file"), &tensors));
}

/// What trainers leave in `args` beside the weights, and a moving average that keeps its copy one dictionary further in.
#[test]
fn settings_beside_the_weights_are_left_alone() {
    let tensors = small();
    let weights = dict(&state_dict(&tensors));
    let values: [&[u8]; 6] = [
        b"ctorch\ndevice\nX\x04\0\0\0cudaK\0\x86R",
        b"ctorch\nbfloat16\n",
        b"\x8a\x09\xfb\xff\xff\xff\xff\xff\xff\xff\x00",
        b"cnumpy._core.multiarray\nscalar\ncnumpy\ndtype\nX\x02\0\0\0f8\x89\x88\x87R(K\x03Ntb\
          c_codecs\nencode\nX\x01\0\0\0aX\x06\0\0\0latin1\x86R\x86R",
        b"c__builtin__\nset\n](K\x01K\x02e\x85R",
        b"comegaconf.dictconfig\nDictConfig\n)\x81}X\x01\0\0\0aK\x01sb",
    ];
    for value in values {
        let args =
            [b"cargparse\nNamespace\n)\x81", &dict(&[("a".to_owned(), value.to_vec())])[..], b"b"];
        let root = [("ema".to_owned(), weights.clone()), ("args".to_owned(), args.concat())];
        let read = open(file(&dict(&root), &tensors)).expect("a file");
        assert!(is_same(&read, &tensors) && read.weights() == Some("ema"));
        let nested = dict(&[
            ("decay".to_owned(), b"K\x01".to_vec()),
            ("shadow".to_owned(), weights.clone()),
        ]);
        let root = [("ema".to_owned(), nested), ("args".to_owned(), args.concat())];
        let read = open(file(&dict(&root), &tensors)).expect("a file");
        assert!(is_same(&read, &tensors) && read.weights() == Some("ema.shadow"));
        // Where a tensor is asked of it, it is refused by name.
        let mut entries = state_dict(&tensors);
        entries[0].1 = value.to_vec();
        let refusal = refused(file(&dict(&entries), &tensors));
        assert!(refusal.contains("pos_embed is not a plain tensor but made by"), "{refusal}");
    }
}

/// PyTorch takes the first of two files of one name, zip libraries the last.
#[test]
fn archives_that_can_be_read_in_two_ways_are_refused() {
    let pickle = [&b"\x80\x02"[..], &dict(&state_dict(&small()[..1])), b"."].concat();
    let data = [0_u8; 64];
    let first = [("x/data.pkl", &pickle[..]), ("x/data/0", &data)];
    assert!(refused(archive(&[first[0], first[1], first[1]])).contains("x/data/0 twice"));
    assert!(refused(archive(&[first[0], first[0], first[1]])).contains("x/data.pkl twice"));
    let second = [("y/data.pkl", &pickle[..]), ("y/data/0", &data)];
    assert!(
        refused(archive(&[first, second].concat()))
            .contains("two checkpoints, in the folders x and y")
    );
    // Others' files, such as those that macOS adds, are left alone.
    let read = open(archive(&[first[0], first[1], ("__MACOSX/x", &data)])).expect("a file");
    assert_eq!(read.read("pos_embed").expect("numbers"), [0.0; 16]);
}

/// Two hundred bytes that once stood for 2⁶⁰ values, and an archive with its description sixty thousand times.
#[test]
fn small_files_stay_small() {
    // An object or a dictionary that is given to itself, 60 times.
    for (make, refusal) in [
        (&b"cargparse\nNamespace\n)Rq\0}(K\x01K\x02ub"[..], "expands to far more values"),
        (b"}q\0(K\x01K\x02u", "has no weights"),
    ] {
        let doubling = [&b"\x80\x02"[..], make, &b"h\0b".repeat(60), b"."].concat();
        let text = refused(archive(&[("a/data.pkl", &doubling)]));
        assert!(text.contains(refusal), "{text}");
    }
    let big = [b"\x80\x02", &b"K\x010".repeat(200_000)[..], b"}."].concat();
    let names: Vec<_> = (0..60_000).map(|i| format!("x/{i}/data.pkl")).collect();
    let many: Vec<(&str, &[u8])> = names.iter().map(|name| (name.as_str(), &b""[..])).collect();
    let files = [&[("x/data.pkl", &big[..])], &many[..]].concat();
    let started = std::time::Instant::now();
    assert!(refused(archive(&files)).contains("available:"));
    assert!(started.elapsed().as_secs() < 5, "read once: {:?}", started.elapsed());
}

/// Files that are damaged anywhere are refused or give other numbers.
#[test]
fn damage_anywhere_is_survived() {
    let whole = bare(&small()[..3]);
    for at in 0..whole.len() {
        for flip in [0xff, 0x01] {
            let mut bytes = whole.clone();
            bytes[at] ^= flip;
            if let Ok(file) = open(bytes) {
                for name in file.shapes().unwrap_or_default().keys() {
                    drop(file.read(name));
                }
            }
        }
    }
    for len in (0..whole.len()).step_by(7) {
        assert!(open(whole[..len].to_vec()).is_err(), "cut after {len}");
    }
}

/// A folder with a file of this name.
pub(crate) fn write(path: &Path, bytes: &[u8]) {
    std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
    std::fs::write(path, bytes).expect("a file");
}
