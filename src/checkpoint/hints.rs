//! What somebody knows about a bare state_dict.

use crate::model::Objective;

/// Information that the tensors do not contain. Each field overrides the YAML file and the tensors.
#[derive(Clone, Debug, Default)]
pub struct Hints {
    /// The official configuration file of a run.
    pub yaml: Option<String>,
    /// Kind of training.
    pub time: Option<Objective>,
    /// Number of attention heads.
    pub heads: Option<usize>,
    /// Mean number of experts per token.
    pub capacity: Option<f64>,
    /// Height and width of a sample.
    pub size: Option<[usize; 2]>,
    /// Name for people.
    pub name: Option<String>,
}
