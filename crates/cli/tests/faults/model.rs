//! Small models for these tests: tensors by name, and files that hold them.

use std::path::Path;

use diffmoe::checkpoint::{TensorOut, random_tensor, write_safetensors};
use diffmoe::model::Config;

/// A tensor with its numbers.
pub(crate) type Tensor = (String, Vec<usize>, Vec<f32>);

/// A configuration of two blocks in the official form; `more` are further constructor arguments.
pub(crate) fn config(kind: &str, width: usize, heads: usize, more: &str) -> String {
    format!(
        r#"{{"name":"case","kind":"{kind}","t_kind":"flow","params":{{"input_size":4,"in_channels":1,"num_classes":2,
        "patch_size":2,"depth":2,"hidden_size":{width},"num_heads":{heads}{more}}}}}"#
    )
}

/// Random tensors for a configuration.
pub(crate) fn tensors(config: &str) -> Vec<Tensor> {
    let config = Config::from_json(config).expect("a configuration");
    let all = config.tensors().into_iter();
    all.map(|spec| (spec.name.clone(), spec.shape.clone(), random_tensor(&config, &spec, 3)))
        .collect()
}

/// Writes a safetensors file, with a configuration in its header where there is one.
pub(crate) fn write(path: &Path, tensors: &[Tensor], config: Option<&str>) {
    let tensors: Vec<_> =
        tensors.iter().map(|(name, shape, values)| TensorOut::f32(name, shape, values)).collect();
    let entries = config.map(|text| ("diffmoe".to_owned(), text.to_owned()));
    write_safetensors(path, &tensors, entries).expect("a file");
}
