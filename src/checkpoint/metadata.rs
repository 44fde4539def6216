//! Header entries of model files: the configuration, and what other programs look for (the format that PyTorch's readers
//! ask for, and ModelSpec).

use std::cmp::Ordering;
use std::collections::BTreeMap;

use safetensors::Dtype;
use serde_json::{Value, json};

use super::tensor_file::CONFIG_KEY;
use crate::model::{Config, Kind};

/// The entries for a configuration. That of an image decoder, which is not ours, gets no ModelSpec.
pub(super) fn entries(config_text: &str) -> BTreeMap<String, String> {
    let mut entries = BTreeMap::from([
        (CONFIG_KEY.to_owned(), config_text.to_owned()),
        ("format".to_owned(), "pt".to_owned()),
    ]);
    let Ok(config) = Config::from_json(config_text) else { return entries };
    let mut add = |key: &str, value: String| entries.insert(format!("modelspec.{key}"), value);
    add("sai_model_spec", "1.0.0".into());
    add("architecture", architecture(config.kind).into());
    add("implementation", "diffmoe".into());
    add("title", config.name.clone());
    if config.makes_pixels() {
        let [height, width] = config.input_size;
        add("resolution", format!("{width}x{height}"));
    }
    let document: Value = serde_json::from_str(config_text).unwrap_or_default();
    let card = |key: &str| document["card"][key].as_str().map(str::to_owned);
    if let Some(license) = card("licence").or_else(|| card("license")) {
        add("license", license);
    }
    entries
}

/// The name of an architecture. ModelSpec lists none for this family.
fn architecture(kind: Kind) -> &'static str {
    match kind {
        Kind::Dense => "dit",
        Kind::Tc => "dit-moe-token-choice",
        Kind::Ec => "dit-moe-expert-choice",
        Kind::DiffMoe => "diffmoe",
    }
}

/// The order of tensors in a file, by type and name: wide types first, so that each tensor is aligned.
pub(super) fn file_order((a, first): (Dtype, &str), (b, second): (Dtype, &str)) -> Ordering {
    b.cmp(&a).then_with(|| first.cmp(second))
}

/// The length and the header of a safetensors file whose tensors follow each other in this order: name, type, shape and
/// bytes. Entries are in alphabetical order; the crate would write them in the order of a hash map, which changes from
/// run to run.
pub(super) fn header<'t>(
    tensors: impl Iterator<Item = (&'t str, Dtype, &'t [usize], usize)>,
    metadata: &BTreeMap<String, String>,
) -> Vec<u8> {
    let mut parts = Vec::new();
    if !metadata.is_empty() {
        parts.push(format!("\"__metadata__\":{}", json!(metadata)));
    }
    let mut begin = 0;
    for (name, dtype, shape, len) in tensors {
        let entry = json!({ "dtype": dtype, "shape": shape, "data_offsets": [begin, begin + len] });
        parts.push(format!("{}:{entry}", json!(name)));
        begin += len;
    }
    let mut text = format!("{{{}}}", parts.join(",")).into_bytes();
    // Tensors begin at a multiple of eight bytes.
    text.resize(text.len().next_multiple_of(8), b' ');
    [&(text.len() as u64).to_le_bytes()[..], &text].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_say_what_they_are_in_the_terms_of_others() {
        let config = |space: &str| {
            format!(
                r#"{{"name":"tiny","kind":"dense","t_kind":"flow"{space},"card":{{"licence":"MIT"}},"params":{{
                "input_size":[4,8],"in_channels":3,"num_classes":2,"patch_size":2,"depth":1,"hidden_size":16,"num_heads":2}}}}"#
            )
        };
        let of = |text: &str| entries(text);
        let pixels = of(&config(r#","space":"pixels""#));
        for (key, value) in [
            ("format", "pt"),
            ("modelspec.sai_model_spec", "1.0.0"),
            ("modelspec.architecture", "dit"),
            ("modelspec.implementation", "diffmoe"),
            ("modelspec.title", "tiny"),
            ("modelspec.resolution", "8x4"),
            ("modelspec.license", "MIT"),
        ] {
            assert_eq!(pixels[key], value);
        }
        assert!(!of(&config("")).contains_key("modelspec.resolution"), "latents have no pixels");
        let decoder = of(r#"{"_class_name":"AutoencoderKL"}"#);
        assert_eq!(decoder.keys().collect::<Vec<_>>(), ["diffmoe", "format"]);
    }

    #[test]
    fn the_header_is_what_the_crate_reads() {
        let entries = BTreeMap::from([("a".to_owned(), "\"b\"".to_owned())]);
        let shapes: [&[usize]; 2] = [&[2, 3], &[1]];
        let tensors = [("x", Dtype::F32, shapes[0], 24), ("y", Dtype::I8, shapes[1], 1)];
        let mut file = header(tensors.into_iter(), &entries);
        assert_eq!(file.len() % 8, 0);
        file.extend([0; 25]);
        let (_, metadata) = safetensors::SafeTensors::read_metadata(&file).unwrap();
        assert_eq!(metadata.metadata().as_ref().unwrap()["a"], "\"b\"");
        let read = safetensors::SafeTensors::deserialize(&file).unwrap();
        let [x, y] = ["x", "y"].map(|name| read.tensor(name).unwrap());
        assert_eq!((x.dtype(), x.shape(), y.data().len()), (Dtype::F32, shapes[0], 1));
    }
}
