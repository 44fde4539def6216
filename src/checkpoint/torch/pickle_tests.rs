//! Hostile and damaged pickles are rejected with an error; nothing is executed, and memory stays bounded.

use super::*;

fn refused(bytes: &[u8]) -> String {
    Pickle::read(bytes).unwrap_err()
}

#[test]
fn plain_values_are_read() {
    // {"a": [1, -2, 2.5, True, None], "b": 300}
    let bytes = b"\x80\x02}q\x00(X\x01\x00\x00\x00a](K\x01J\xfe\xff\xff\xffG\x40\x04\x00\x00\x00\x00\x00\x00\x88NeX\x01\x00\x00\x00bM\x2c\x01u.";
    let pickle = Pickle::read(bytes).unwrap();
    let get = |key: &str| pickle.get(pickle.root, key).map(|id| pickle.value(id));
    let Some(Value::List(items)) = get("a") else { panic!() };
    let items: Vec<_> = items.iter().map(|&id| pickle.value(id).clone()).collect();
    let (yes, none) = (Value::Bool(true), Value::None);
    assert_eq!(items, [Value::Int(1), Value::Int(-2), Value::Float(2.5), yes, none]);
    assert_eq!(get("b"), Some(&Value::Int(300)));
    assert_eq!(get("c"), None);
}

#[test]
fn names_that_run_something_are_refused() {
    // What a pickle needs to call os.system("true").
    let text = refused(b"\x80\x02cposix\nsystem\nX\x04\x00\x00\x00true\x85R.");
    assert!(text.contains("posix.system") && text.contains("Nothing was executed"), "{text}");
    for name in ["builtins\neval", "builtins\ngetattr", "torch.hub\nload"] {
        let text = refused(format!("\u{2}c{name}\n.").replacen('\u{2}', "", 1).as_bytes());
        assert!(text.contains("refers to"), "{text}");
    }
}

/// Values in `args` or `opt` are never used: `{"x": …}` with what trainers save there.
#[test]
fn values_that_only_python_can_construct_stay_opaque() {
    let class_of = |value: &[u8]| {
        let bytes =
            [&b"\x80\x02}(X\x01\x00\x00\x00x"[..], value, b"X\x01\x00\x00\x00yK\x01u."].concat();
        let pickle = Pickle::read(&bytes).unwrap();
        let get = |key: &str| pickle.get(pickle.root, key).map(|id| pickle.value(id));
        assert_eq!(get("y"), Some(&Value::Int(1)), "what follows is read");
        match get("x") {
            Some(Value::Opaque { name, state }) => (name.to_string(), state.is_some()),
            other => panic!("{other:?}"),
        }
    };
    let plain = |name: &str| (name.to_owned(), false);
    // torch.device("cuda", 0), torch.bfloat16, a seed of 64 bits.
    let device = b"ctorch\ndevice\nX\x04\x00\x00\x00cudaK\x00\x86R";
    assert_eq!(class_of(device), plain("torch.device"));
    assert_eq!(class_of(b"ctorch\nbfloat16\n"), plain("torch.bfloat16"));
    let seed = b"\x8a\x09\xfb\xff\xff\xff\xff\xff\xff\xff\x00";
    assert!(class_of(seed).0.contains("more than 63 bits"));
    // numpy.float64, {1}, range(2), b"a", defaultdict and an object with attributes, list items and dictionary items.
    let dtype = b"cnumpy\ndtype\nX\x02\x00\x00\x00f8\x89\x88\x87R(K\x03NNJ\xff\xff\xff\xfftb";
    let scalar = [&b"cnumpy._core.multiarray\nscalar\n"[..], dtype, b"N\x86R"].concat();
    assert_eq!(class_of(&scalar), plain("numpy._core.multiarray.scalar"));
    assert_eq!(class_of(b"c__builtin__\nset\n](K\x01e\x85R"), plain("__builtin__.set"));
    assert_eq!(
        class_of(b"c__builtin__\nxrange\nK\x00K\x02K\x01\x87R"),
        plain("__builtin__.xrange")
    );
    let bytes = b"c_codecs\nencode\nX\x01\x00\x00\x00aX\x06\x00\x00\x00latin1\x86R";
    assert_eq!(class_of(bytes), plain("_codecs.encode"));
    let object = b"cmy.trainer\nState\n)\x81}X\x01\x00\x00\x00aK\x01sbK\x01a(K\x01K\x02u";
    assert_eq!(class_of(object), ("my.trainer.State".to_owned(), true));
}

#[test]
fn known_names_cannot_be_called_with_anything() {
    let text = refused(b"\x80\x02ccollections\nOrderedDict\nK\x01\x85R.");
    assert!(text.contains("collections.OrderedDict"), "{text}");
    assert!(refused(b"\x80\x02K\x01)R.").contains("not a function"));
    assert!(
        refused(b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\nK\x01K\x01))tR.").contains("damaged")
    );
    assert!(
        refused(b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(K\x01K\x01))tR.").contains("no data")
    );
}

#[test]
fn damaged_pickles_are_refused() {
    for bytes in [
        &b""[..],
        b"\x80",
        b"\x80\x02",
        b"\x80\x02.",
        b"\x80\x02X\xff\xff\xff\xffabc.",
        b"\x80\x02h\x07.",
        b"\x80\x02e.",
        b"\x80\x02(0.",
        b"\x80\x02\x87.",
        b"\x80\x02\x8a\x05\x01.",
        b"\x80\x02ctorch",
    ] {
        assert!(refused(bytes).contains("damaged"), "{bytes:?}");
    }
    assert!(refused(b"\x80\x04\x95").contains("protocol 4"));
    assert!(refused(b"\x80\x02i").contains("0x69"));
    assert!(refused(b"\x80\x02K\x01K\x02a.").contains("neither a list"));
    assert!(refused(b"\x80\x02]K\x01K\x02s.").contains("neither a list"));
    assert!(refused(b"\x80\x02}K\x01a.").contains("neither a list"));
    assert!(refused(b"\x80\x02}(K\x01u.").contains("neither a list"));
    assert!(refused(b"\x80\x02K\x01}b.").contains("state"));
}

#[test]
fn deep_nesting_and_sharing_cost_nothing() {
    let mut deep = b"\x80\x02)".to_vec();
    deep.extend(std::iter::repeat_n(0x85, 250_000));
    deep.push(b'.');
    assert!(Pickle::read(&deep).is_ok());
    // A list of a list of … ten times the same: 10⁶⁰ items if it were written out.
    let mut wide = b"\x80\x02)q\x00".to_vec();
    for _ in 0..60 {
        wide.push(b'(');
        wide.extend(b"h\x00".repeat(10));
        wide.extend(b"tq\x00");
    }
    wide.push(b'.');
    assert!(Pickle::read(&wide).is_ok());
}

/// Small files that expand to any number of values.
#[test]
fn values_have_a_budget() {
    let attack = |bytes: &[u8]| {
        let text = refused(bytes);
        assert!(text.contains("more values than tensors need"), "{text}");
    };
    // An object that gets its own attributes, 60 times: 2⁶⁰ of them.
    let object =
        |slot: u8| [&b"cargparse\nNamespace\n)Rq"[..], &[slot], b"}(K\x01K\x02ub"].concat();
    attack(&[&b"\x80\x02"[..], &object(0), &b"h\0b".repeat(60), b"."].concat());
    // The same by way of another one.
    let twice = b"h\0h\x01bh\x01h\0b".repeat(60);
    attack(&[&b"\x80\x02"[..], &object(0), &object(1), &twice, b"."].concat());
    // A value for every byte.
    for op in [b'N', b'}', b']', b'('] {
        attack(&[&b"\x80\x02"[..], &[op].repeat(8 << 20), b"."].concat());
    }
    // What a file of this size may have is there.
    let fine = [&b"\x80\x02"[..], &b"N".repeat(500_000), b"."].concat();
    assert_eq!(Pickle::read(&fine).unwrap().values.len(), 500_000);
}

/// `torch.save` writes the attributes of an ordered dictionary, such as `_metadata`, as its state.
#[test]
fn attributes_of_a_dictionary_are_not_its_entries() {
    let state = b"}X\x01\0\0\0bK\x02sb.";
    let entries = |make: &[u8]| {
        let bytes = [&b"\x80\x02"[..], make, b"X\x01\0\0\0aK\x01s", state].concat();
        let pickle = Pickle::read(&bytes).unwrap();
        pickle.named(pickle.root).map(|(name, _)| name.to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(entries(b"ccollections\nOrderedDict\n)R"), ["a"]);
    assert_eq!(entries(b"}"), ["a"]);
    assert_eq!(entries(b"cargparse\nNamespace\n)R"), ["a", "b"]);
}

#[test]
fn whole_numbers_of_any_length_are_read() {
    let read = |number: &[u8]| {
        let bytes = [&b"\x80\x02\x8a"[..], &[number.len() as u8], number, b"."].concat();
        let pickle = Pickle::read(&bytes).unwrap();
        pickle.value(pickle.root).clone()
    };
    assert_eq!(read(&[]), Value::Int(0));
    assert_eq!(read(&[0xff]), Value::Int(-1));
    assert_eq!(read(&[0xff, 0x7f]), Value::Int(0x7fff));
    assert_eq!(read(&[0, 0x80]), Value::Int(-0x8000));
    assert_eq!(read(&i64::MIN.to_le_bytes()), Value::Int(i64::MIN));
    assert!(matches!(read(&[0, 0, 0, 0, 0, 0, 0, 0x80, 0]), Value::Opaque { .. }));
}

#[test]
fn views_that_torch_does_not_save_are_refused() {
    let tensor = |metadata: &[u8]| {
        let make = &b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n("[..];
        let storage = b"(X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x000NK\x01tQ";
        Pickle::read(&[make, storage, b"K\0))\x89}", metadata, b"tR."].concat())
    };
    let is_negated = |metadata: &[u8]| {
        let pickle = tensor(metadata).unwrap();
        let Value::Tensor(tensor) = pickle.value(pickle.root) else { panic!("no tensor") };
        tensor.is_negated
    };
    let entry = |name: &str, value: &[u8]| {
        let size = (name.len() as u32).to_le_bytes();
        [&b"}X"[..], &size, name.as_bytes(), value, b"s"].concat()
    };
    assert!(!is_negated(b"N") && !is_negated(b"}") && !is_negated(&entry("conj", b"\x89")));
    assert!(is_negated(&entry("neg", b"\x88")));
    for metadata in [&entry("conj", b"\x88")[..], b"K\x01", &entry("neg", b"K\x01")] {
        assert!(tensor(metadata).unwrap_err().contains("view of a kind"), "{metadata:?}");
    }
}

/// A list that is used a million times over is looked at each time, not copied.
#[test]
fn what_is_shared_is_not_copied() {
    let list = [&b"\x80\x02("[..], &b"K\x01".repeat(100_000), b"tq\x01"].concat();
    let call = b"ccollections\ndefaultdict\nh\x01R";
    assert!(refused(&[&list[..], call, b"."].concat()).contains("unlike torch.save"));
    // As many dimensions as PyTorch has, and one more.
    for (dimensions, is_fine) in [(64, true), (65, false)] {
        let list = [&b"\x80\x02("[..], &b"K\x01".repeat(dimensions), b"tq\x01"].concat();
        let tensor = b"ctorch._utils\n_rebuild_tensor_v2\n((X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x000NK\x01tQK\0h\x01h\x01tR.";
        assert_eq!(Pickle::read(&[&list[..], tensor].concat()).is_ok(), is_fine, "{dimensions}");
    }
    // The shape of a tensor, of a hundred thousand dimensions.
    let tensor = b"ctorch._utils\n_rebuild_tensor_v2\n((X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x000NK\x01tQK\0h\x01h\x01tR";
    assert!(refused(&[&list[..], tensor, b"."].concat()).contains("has no shape"));
}
