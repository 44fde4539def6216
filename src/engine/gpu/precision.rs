//! The precision of the large matrices of a model on a GPU.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::checkpoint::Checkpoint;
use crate::kernels::WeightPrecision;
use crate::model::{Group, Storage, TensorSpec};

/// The requested precision of large matrices on a GPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum WeightChoice {
    /// The format of the file, without loss and with the least memory: int4, int8 or f16; f16 for those in
    /// f32 or bf16.
    #[default]
    Auto,
    /// This, whatever the file has.
    Exactly(WeightPrecision),
}

impl From<WeightPrecision> for WeightChoice {
    fn from(precision: WeightPrecision) -> Self {
        Self::Exactly(precision)
    }
}

impl WeightChoice {
    /// The precisions for a checkpoint.
    pub fn resolve(self, checkpoint: &Checkpoint) -> Precisions {
        let Self::Exactly(precision) = self else { return Precisions::of_file(checkpoint) };
        precision.into()
    }
}

/// The precision of each large matrix of a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Precisions(Kind);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    All(WeightPrecision),
    /// By group.
    Each(BTreeMap<Group, WeightPrecision>),
}

impl From<WeightPrecision> for Precisions {
    fn from(precision: WeightPrecision) -> Self {
        Self(Kind::All(precision))
    }
}

impl Precisions {
    /// What a file has. Every group of matrices gets the finest of theirs.
    fn of_file(checkpoint: &Checkpoint) -> Self {
        let mut groups = BTreeMap::new();
        for tensor in checkpoint.config().tensors().into_iter().filter(TensorSpec::is_matrix) {
            let precision = match checkpoint.storage(&tensor.name) {
                Ok(Storage::Int4) => WeightPrecision::Int4,
                Ok(Storage::Int8) => WeightPrecision::Int8,
                Ok(Storage::F16 | Storage::F32) | Err(_) => WeightPrecision::F16,
            };
            let of_group = groups.entry(tensor.group).or_insert(precision);
            *of_group = precision.max(*of_group);
        }
        Self(Kind::Each(groups))
    }

    /// The precision of a tensor; f32 unless it is a large matrix.
    pub fn of(&self, tensor: &TensorSpec) -> WeightPrecision {
        match &self.0 {
            _ if !tensor.is_matrix() => WeightPrecision::F32,
            Kind::All(precision) => *precision,
            Kind::Each(groups) => {
                groups.get(&tensor.group).copied().unwrap_or(WeightPrecision::F16)
            }
        }
    }
}

impl Precisions {
    /// Each once, the coarsest first.
    pub fn list(&self) -> Vec<WeightPrecision> {
        let kinds: BTreeSet<_> = match &self.0 {
            Kind::All(precision) => BTreeSet::from([*precision]),
            Kind::Each(groups) => groups.values().copied().collect(),
        };
        kinds.into_iter().collect()
    }
}

/// Names each once, the coarsest first: "int8 and f16".
impl fmt::Display for Precisions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.list().iter().map(WeightPrecision::to_string).collect();
        f.write_str(&names.join(" and "))
    }
}
