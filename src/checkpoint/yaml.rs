//! The YAML file of an official training run: model arguments, objective and name.

use serde_json::{Map, Value};
use serde_saphyr::{DuplicateKeyPolicy, Error, NonFiniteFloatPolicy};

/// The relevant contents.
pub(super) struct Run {
    /// Constructor arguments; without those that the tensors tell where [`Run::is_partial`].
    pub(super) params: Map<String, Value>,
    /// Whether the run was a flow.
    pub(super) is_flow: Option<bool>,
    pub(super) name: Option<String>,
    /// Whether it is a file of `ProMoE`'s code, which has the sizes elsewhere.
    pub(super) is_partial: bool,
}

/// What aliases (`*name`) may repeat in a file: runs have some dozens of lines, and a file of a few bytes may repeat
/// itself a million times.
const MOST_REPEATED: usize = 1000;

impl Run {
    /// Reads a file; `None` if it has no `model.params`, as the files of other programs.
    ///
    /// # Errors
    /// When it is not valid YAML, with the position.
    pub(super) fn read(text: &str) -> Result<Option<Self>, String> {
        // As PyYAML: the last of two equal keys wins, and infinities are allowed.
        let options = serde_saphyr::options! {
            duplicate_keys: DuplicateKeyPolicy::LastWins,
            non_finite_float_policy: NonFiniteFloatPolicy::PassThrough,
            with_snippet: false,
            alias_limits: serde_saphyr::alias_limits! { max_total_replayed_events: MOST_REPEATED },
        };
        let documents: Vec<Value> = serde_saphyr::from_multiple_with_options(text, options)
            .map_err(|error| unreadable(&error))?;
        Ok(documents.iter().find_map(|file| {
            let Some(params) = file.pointer("/model/params").or(file.get("params")) else {
                return Self::of_promoe(file);
            };
            Some(Self {
                params: params.as_object()?.clone(),
                is_flow: file.pointer("/basic/rf").and_then(Value::as_bool),
                name: file.pointer("/basic/exp_name").and_then(Value::as_str).map(str::to_owned),
                is_partial: false,
            })
        }))
    }

    /// Such files change some of the arguments, in a section that is named after a size, as in `DiT_L_config`.
    fn of_promoe(file: &Value) -> Option<Self> {
        let is_model =
            |section: &&Value| section.pointer("/MoE_config/num_routed_experts").is_some();
        Some(Self {
            params: file.as_object()?.values().find(is_model)?.as_object()?.clone(),
            is_flow: Some(true),
            name: file.get("model_name").and_then(Value::as_str).map(str::to_owned),
            is_partial: true,
        })
    }
}

/// The crate's own messages are about its programming interface.
fn unreadable(error: &Error) -> String {
    match error {
        // Inside of something that is repeated.
        Error::AliasError { error, .. } => unreadable(error),
        Error::AliasReplayLimitExceeded { .. } => {
            "its aliases repeat more than the file of a run does".into()
        }
        _ => match error.location() {
            Some(place) => {
                format!("it is not valid YAML at line {}, column {}", place.line(), place.column())
            }
            None => "it is not valid YAML".into(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_runs_are_told_from_others() {
        let read = |text: &str| Run::read(text).unwrap();
        assert!(
            read("name: DiT\nchannels:\n  - pytorch\ndependencies:\n  - python >= 3.8\n").is_none()
        );
        assert!(read("").is_none());
        assert!(read("model: DiT-XL/2\nparams: 3\n").is_none());
        let run = read("basic: {rf: true, exp_name: a}\nmodel: {params: {depth: 2}}\n").unwrap();
        assert_eq!((run.is_flow, run.name.as_deref()), (Some(true), Some("a")));
        assert_eq!(run.params["depth"], 2);
    }

    #[test]
    fn aliases_are_read_unless_they_multiply() {
        let text = "params: &all\n  depth: 2\nother: *all\nmodel: {params: *all}\n";
        assert_eq!(Run::read(text).unwrap().unwrap().params["depth"], 2);
        let eight = |name: char| [&*format!("*{name}"); 8].join(",");
        let bomb =
            format!("a: &a [{}]\nb: &b [{}]\nc: [{}]\n", "x,".repeat(7), eight('a'), eight('b'));
        let refused = Run::read(&format!("{bomb}d: [{}]\n", eight('b')));
        assert_eq!(
            refused.err().as_deref(),
            Some("its aliases repeat more than the file of a run does")
        );
    }

    #[test]
    fn files_of_promoe_have_a_section_for_a_size() {
        let text = "model_name: ProMoE_TC_L\nlr: 0.0001\nDiT_L_config:\n  qk_norm: False\n  MoE_config:\n    \
                    num_routed_experts: 12\n    top_k: 1\n";
        let run = Run::read(text).unwrap().unwrap();
        assert_eq!(
            (run.is_flow, run.name.as_deref(), run.is_partial),
            (Some(true), Some("ProMoE_TC_L"), true)
        );
        assert_eq!(run.params["qk_norm"], false);
        assert_eq!(run.params["MoE_config"]["top_k"], 1);
    }

    /// Everything that PyYAML accepts, in parts of the file that do not describe the model.
    #[test]
    fn the_rest_of_a_file_may_be_anything() {
        let run = Run::read(
            "train:\n  clip: .inf\n  best: .nan\n  seed: 1\n  seed: 2\nmodel:\n  params:\n    depth: 2\n---\nmore: 1\n",
        );
        assert_eq!(run.unwrap().unwrap().params["depth"], 2);
        let error = Run::read("a: 1\nb: [1, 2\n").map(|run| run.is_some()).unwrap_err();
        assert!(error.contains("not valid YAML at line"), "{error}");
    }
}
