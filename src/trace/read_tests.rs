//! Traces round-trip, and invalid ones are rejected with a reason.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::checkpoint::{TensorOut, safetensors_bytes};
use crate::trace::tests::{trace, trace_with_scores};

/// As after a run with a muted expert, and without guidance.
fn muted() -> Trace {
    let mut trace = trace_with_scores();
    for layer in trace.forwards.iter_mut().flat_map(|forward| &mut forward.layers) {
        layer.masks.iter_mut().for_each(|mask| *mask &= 0b101);
        layer.scores.as_mut().unwrap().thresholds[1] = f32::INFINITY;
    }
    trace
}

/// As of a model without a capacity predictor.
fn without_need() -> Trace {
    let mut trace = trace_with_scores();
    for layer in trace.forwards.iter_mut().flat_map(|forward| &mut forward.layers) {
        let scores = layer.scores.as_mut().unwrap();
        scores.need.clear();
        scores.thresholds.clear();
    }
    trace
}

/// As of a model without experts.
fn dense() -> Trace {
    let mut trace = Trace { experts: 0, ..trace() };
    trace.forwards.iter_mut().for_each(|forward| forward.layers.clear());
    trace
}

#[test]
fn both_forms_are_read_back_as_they_were() {
    let empty = Trace { forwards: Vec::new(), ..trace() };
    for trace in [trace(), trace_with_scores(), muted(), without_need(), dense(), many(), empty] {
        let json = trace.to_json().unwrap();
        assert_eq!(Trace::from_bytes(json.as_bytes()).unwrap(), trace);
        let tensors = trace.to_safetensors().unwrap();
        assert_eq!(Trace::from_bytes(&tensors).unwrap(), trace);
    }
}

/// As of a model with an expert for every bit of a mask.
fn many() -> Trace {
    let mut trace = Trace { experts: 64, ..trace() };
    for layer in trace.forwards.iter_mut().flat_map(|forward| &mut forward.layers) {
        layer.masks.iter_mut().for_each(|mask| *mask |= mask.reverse_bits());
    }
    trace
}

/// The trace as JSON with one value changed.
fn changed(pointer: &str, value: Value) -> Result<Trace, TraceError> {
    let mut document: Value =
        serde_json::from_str(&trace_with_scores().to_json().unwrap()).unwrap();
    *document.pointer_mut(pointer).unwrap() = value;
    Trace::from_json(document.to_string().as_bytes())
}

#[test]
fn numbers_that_do_not_belong_together_are_refused() {
    let layer = "/forwards/1/layers/0";
    let at = |key: &str| format!("{layer}/{key}");
    let cases = [
        ("/grid".to_owned(), json!([0, 4]), "grid of 0"),
        ("/grid".to_owned(), json!([1_u64 << 40, 1_u64 << 40]), "grid of"),
        ("/grid".to_owned(), json!([3, 1]), "masks of 4 tokens"),
        ("/experts".to_owned(), json!(65), "65 experts"),
        ("/experts".to_owned(), json!(2), "experts beyond the 2"),
        ("/experts".to_owned(), json!(4), "scores"),
        ("/labels/0".to_owned(), json!(["a"]), "number of labels does not match"),
        ("/forwards/2/step".to_owned(), json!(4_000_000_000_u32), "step 4000000000"),
        ("/forwards/0/step".to_owned(), json!(1), "step 0 after step 1"),
        (at("block"), json!(2), "other layers"),
        ("/forwards/0/layers/0/block".to_owned(), json!(3), "ascending"),
        ("/forwards/1/layers".to_owned(), json!([]), "other layers"),
        (at("masks"), json!([1]), "another number of tokens"),
        (at("masks"), json!([8, 0, 0, 0]), "experts beyond the 3"),
        (at("gate"), json!([0.5]), "scores"),
        (at("gate"), json!(null), "scores"),
        (at("need"), json!([]), "scores"),
        (at("thresholds"), json!([0.5, 0.5]), "scores"),
    ];
    for (pointer, value, reason) in cases {
        let error = changed(&pointer, value.clone()).unwrap_err().to_string();
        assert!(error.contains("damaged") && error.contains(reason), "{pointer} {value}: {error}");
    }
}

#[test]
fn what_is_no_trace_is_refused_with_a_reason() {
    assert_eq!(changed("/format", json!(3)), Err(TraceError::Format(3)));
    let refused = |bytes: &[u8], reason: &str| {
        let error = Trace::from_bytes(bytes).unwrap_err().to_string();
        assert!(error.contains("not a trace") && error.contains(reason), "{error}");
    };
    refused(b"", "neither JSON nor safetensors");
    refused(b"hello", "neither JSON nor safetensors");
    refused(b"{}", "missing field `format`");
    refused(br#"{"format":1}"#, "missing field");
    refused(br#"{"format":1"#, "EOF");
    // A header that claims to be longer than the file.
    refused(&u64::MAX.to_le_bytes(), "neither JSON nor safetensors");
    // A model.
    let model = safetensors_bytes(&[TensorOut::f32("x", &[1], &[0.0])], []).unwrap();
    refused(&model, "its header lacks the entry \"format\"");
    let wrong = changed("/forwards/0/time", json!("soon")).unwrap_err().to_string();
    assert!(wrong.contains("invalid type"), "{wrong}");
}

/// Header entries of a trace of 3 passes, 2 layers, 4 tokens and 3 experts.
fn header(format: &str) -> Vec<(String, String)> {
    let entries = [("format", format), ("model", "m"), ("grid", "[1,2]"), ("labels", "[]")];
    entries.map(|(key, value)| (key.to_owned(), value.to_owned())).to_vec()
}

/// The tensors of a trace of one pass through one layer, two tokens and two experts.
fn tensors() -> Vec<TensorOut> {
    vec![
        TensorOut::u32("masks", &[1, 1, 2], &[1, 3]),
        TensorOut::u32("counts", &[1, 1, 2], &[2, 1]),
        TensorOut::u32("blocks", &[1], &[1]),
        TensorOut::u32("step", &[1], &[0]),
        TensorOut::u32("guided", &[1], &[1]),
        TensorOut::f32("time", &[1], &[0.5]),
    ]
}

#[test]
fn tensors_of_other_shapes_are_refused() {
    let read = |list: &[TensorOut], format| {
        Trace::from_safetensors(&safetensors_bytes(list, header(format)).unwrap())
    };
    let sound = read(&tensors(), "1").unwrap();
    assert_eq!(sound.forwards()[0].layers[0].masks, [1, 3]);
    assert_eq!(read(&tensors(), "7"), Err(TraceError::Format(7)));
    assert!(read(&tensors(), "one").unwrap_err().to_string().contains("format in its header"));
    let cases = [
        (0, TensorOut::u32("masks", &[2], &[1, 3]), "[passes, layers, tokens]"),
        (1, TensorOut::u32("counts", &[2], &[2, 1]), "[passes, layers, experts]"),
        (1, TensorOut::u32("counts", &[1, 1, 65], &[0; 65]), "65 experts"),
        (2, TensorOut::u32("blocks", &[2], &[1, 2]), "blocks is U32 with shape [2]"),
        (3, TensorOut::f32("step", &[1], &[0.0]), "expected U32 with shape [1]"),
        (5, TensorOut::f32("time", &[1], &[f32::NAN]), "no time"),
    ];
    for (place, tensor, reason) in cases {
        let mut list = tensors();
        list[place] = tensor;
        let error = read(&list, "1").unwrap_err().to_string();
        assert!(error.contains(reason), "{error}");
    }
    let mut list = tensors();
    list.push(TensorOut::f16("gate", &[1, 1, 2, 3], &[f16::ONE; 6]));
    assert!(read(&list, "2").unwrap_err().to_string().contains("gate is F16"));
    list[6] = TensorOut::f16("gate", &[1, 1, 2, 2], &[f16::ONE; 4]);
    assert!(read(&list, "2").unwrap().has_scores());
    list.push(TensorOut::f16("need", &[1, 1, 2, 2], &[f16::ONE; 4]));
    assert!(read(&list, "2").unwrap_err().to_string().contains("\"thresholds\" is missing"));
    list.push(TensorOut::f32("thresholds", &[1, 2], &[0.5, f32::NAN]));
    assert!(read(&list, "2").unwrap_err().to_string().contains("scores"));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..Default::default() })]

    /// Whatever is read can be looked at without a panic.
    #[test]
    fn damaged_files_never_panic(
        is_json in any::<bool>(),
        place in any::<prop::sample::Index>(),
        bytes in prop::collection::vec(any::<u8>(), 1..5),
        cut in any::<bool>(),
    ) {
        let trace = trace_with_scores();
        let mut file =
            if is_json { trace.to_json().unwrap().into_bytes() } else { trace.to_safetensors().unwrap() };
        let start = place.index(file.len());
        for (to, from) in file[start..].iter_mut().zip(&bytes) {
            *to = *from;
        }
        if cut {
            file.truncate(start);
        }
        if let Ok(read) = Trace::from_bytes(&file) {
            read.capacity_by_step();
            read.capacity_by_image();
            for layer in 0..read.blocks().len() {
                for step in 0..read.steps().min(9) {
                    read.load(step, layer);
                }
            }
            read.to_json().unwrap();
            read.to_safetensors().unwrap();
        }
    }
}
