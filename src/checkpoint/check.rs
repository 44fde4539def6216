//! Compares tensors with a configuration. Model files, PyTorch files and conversions all use this one comparison.

use std::collections::{BTreeMap, BTreeSet};

use super::error::CheckpointError;
use super::tensor_file::{Found, TensorFile};
use crate::model::Config;

/// Names and shapes of tensors.
pub(super) type Shapes = BTreeMap<String, Vec<usize>>;

/// Every tensor that is missing, unexpected or of the wrong shape.
pub(super) fn problems(config: &Config, shapes: &Shapes) -> Vec<String> {
    // A short configuration can describe millions of tensors. They are listed only if the file has about as many.
    let most = 2 * shapes.len() + 1000;
    let Some(needed) = config.tensors_up_to(most) else {
        return vec![format!(
            "the configuration describes more than {most} tensors, the file contains {}",
            shapes.len()
        )];
    };
    let wrong = needed.iter().filter_map(|spec| {
        let (name, shape) = (&spec.name, &spec.shape);
        match shapes.get(name) {
            None if spec.is_optional() => None,
            None => Some(format!("{name} {shape:?} is missing")),
            Some(found) if found != shape => {
                Some(format!("{name} has shape {found:?}, expected {shape:?}"))
            }
            Some(_) => None,
        }
    });
    let known: BTreeSet<_> = needed.iter().map(|spec| &spec.name).collect();
    let extra = shapes.keys().filter(|name| !known.contains(name));
    wrong.chain(extra.map(|name| format!("{name} is not part of this model"))).collect()
}

/// Rejects tensors that do not match the configuration.
///
/// # Errors
/// All problems at once.
#[cfg(feature = "import")]
pub(super) fn check(label: &str, config: &Config, shapes: &Shapes) -> Result<(), CheckpointError> {
    refuse(label, problems(config, shapes))
}

/// As [`check`]; also rejects storage formats that cannot be read.
///
/// # Errors
/// All problems at once.
pub(super) fn check_file(file: &TensorFile, config: &Config) -> Result<(), CheckpointError> {
    let shapes = file.shapes();
    let mut problems = problems(config, &shapes);
    for name in shapes.keys() {
        match file.find(name) {
            Found::Unsupported(problem) => problems.push(problem),
            Found::Scaled { problem } => problems.extend(problem),
            Found::Missing | Found::Plain => {}
        }
    }
    refuse(file.label(), problems)
}

fn refuse(label: &str, problems: Vec<String>) -> Result<(), CheckpointError> {
    if problems.is_empty() {
        return Ok(());
    }
    Err(CheckpointError::Mismatch { label: label.to_owned(), problems })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Preset;

    #[test]
    fn every_difference_is_named() {
        let config = "S-E4".parse::<Preset>().unwrap().config();
        let whole: Shapes = config.tensors().into_iter().map(|t| (t.name, t.shape)).collect();
        assert!(problems(&config, &whole).is_empty());
        let mut shapes = whole.clone();
        shapes.remove("blocks.1.mlp.ema_decay");
        assert!(problems(&config, &shapes).is_empty(), "inference does not need it");
        shapes.remove("blocks.3.attn.qkv.bias");
        shapes.insert("blocks.0.attn.proj.weight".into(), vec![384, 383]);
        shapes.insert("blocks.0.attn.rope".into(), vec![1]);
        assert_eq!(
            problems(&config, &shapes),
            [
                "blocks.0.attn.proj.weight has shape [384, 383], expected [384, 384]",
                "blocks.3.attn.qkv.bias [1152] is missing",
                "blocks.0.attn.rope is not part of this model"
            ]
        );
    }

    #[test]
    fn a_configuration_of_millions_of_tensors_is_not_expanded() {
        let config = Config::from_json(
            r#"{"kind":"diffmoe","t_kind":"flow","params":{"input_size":4,"in_channels":1,"num_classes":2,
            "patch_size":2,"depth":65536,"hidden_size":4,"num_heads":1,
            "MoE_config":{"num_experts":32,"interleave":false}}}"#,
        );
        let problems = problems(&config.unwrap(), &[("w".to_owned(), vec![1])].into());
        assert_eq!(
            problems,
            ["the configuration describes more than 1002 tensors, the file contains 1"]
        );
    }
}
