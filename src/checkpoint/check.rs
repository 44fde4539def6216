//! Compares tensors with a configuration. Model files, PyTorch files and conversions all use this one comparison.

use std::collections::{BTreeMap, BTreeSet};

use super::error::CheckpointError;
use super::foreign::is_jit;
use super::tensor_file::{Found, TensorFile};
use crate::model::Config;

/// Names and shapes of tensors.
pub(super) type Shapes = BTreeMap<String, Vec<usize>>;

/// Every tensor that is missing, unexpected or of the wrong shape.
pub(super) fn problems(config: &Config, shapes: &Shapes) -> Vec<String> {
    // A short configuration can describe millions of tensors. They are listed only if the file has about as many.
    let most = 2 * shapes.len() + 1000;
    let Some(needed) = config.stored_up_to(most) else {
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
    if is_jit(shapes.keys().map(String::as_str)) {
        let problem = "it has the layout of JiT; make a model file of it with `diffmoe convert`";
        return refuse(file.label(), vec![problem.into()]);
    }
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
        let shapes = ["a", "b", "c"].map(|name| (name.to_owned(), vec![1]));
        let problems = problems(&config.unwrap(), &shapes.into());
        assert_eq!(
            problems,
            ["the configuration describes more than 1006 tensors, the file contains 3"]
        );
    }

    #[test]
    fn what_does_not_fit_is_refused_with_all_problems() {
        let config = "dense-S-flow".parse::<Preset>().unwrap().config();
        let header = r#"{"a":{"dtype":"I64","shape":[1],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[1],"data_offsets":[8,12]}}"#;
        let bytes = [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &[0; 12]].concat();
        let file = TensorFile::from_bytes("x", crate::platform::Bytes::new(bytes)).unwrap();
        let Err(CheckpointError::Mismatch { label, problems }) = check_file(&file, &config) else {
            panic!("it is accepted")
        };
        assert_eq!(label, "x");
        let has = |text: &str| problems.iter().any(|problem| problem.contains(text));
        assert!(has("a is not part") && has("b is not part") && has("a is stored as I64"));
        assert!(has("pos_embed") && !has("b is stored"), "{problems:?}");
        assert!(refuse("x", Vec::new()).is_ok());
    }

    #[test]
    #[cfg(feature = "import")]
    fn shapes_are_accepted_or_refused() {
        let config = "dense-S-flow".parse::<Preset>().unwrap().config();
        let mut shapes: Shapes = config.tensors().into_iter().map(|t| (t.name, t.shape)).collect();
        assert!(check("x", &config, &shapes).is_ok());
        shapes.remove("final_layer.linear.bias");
        let error = check("x", &config, &shapes).unwrap_err().to_string();
        assert!(error.contains("final_layer.linear.bias"), "{error}");
    }
}
