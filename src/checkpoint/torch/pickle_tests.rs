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
    let Value::List(items) = pickle.get(pickle.root(), "a").unwrap() else { panic!() };
    let items: Vec<_> = items.iter().map(|&id| pickle.value(id).clone()).collect();
    let (yes, none) = (Value::Bool(true), Value::None);
    assert_eq!(items, [Value::Int(1), Value::Int(-2), Value::Float(2.5), yes, none]);
    assert_eq!(pickle.get(pickle.root(), "b"), Some(&Value::Int(300)));
    assert_eq!(pickle.get(pickle.root(), "c"), None);
}

#[test]
fn foreign_names_are_refused_and_nothing_runs() {
    // What a pickle needs to call os.system("true").
    let text = refused(b"\x80\x02cposix\nsystem\nX\x04\x00\x00\x00true\x85R.");
    assert!(text.contains("posix.system") && text.contains("Nothing was executed"), "{text}");
    for name in ["builtins\neval", "builtins\ngetattr", "torch.hub\nload"] {
        let text = refused(format!("\u{2}c{name}\n.").replacen('\u{2}', "", 1).as_bytes());
        assert!(text.contains("refers to"), "{text}");
    }
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
    assert!(refused(b"\x80\x02K\x01}b.").contains("state"));
}

#[test]
fn nesting_a_million_deep_and_sharing_cost_nothing() {
    let mut deep = b"\x80\x02)".to_vec();
    deep.extend(std::iter::repeat_n(0x85, 1_000_000));
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
