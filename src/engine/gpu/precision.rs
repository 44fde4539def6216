//! Which precision the large matrices of a model get on a graphics device.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::checkpoint::Checkpoint;
use crate::kernels::WeightPrecision;
use crate::model::{Storage, TensorSpec, is_matrix};

/// What a user wants large matrices to be on a graphics device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum WeightChoice {
    /// What the file has of each, which loses nothing and takes the least memory: int4, int8 or f16. f16 for those in
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
    /// By the name of a [`stack`].
    Each(BTreeMap<String, WeightPrecision>),
}

impl From<WeightPrecision> for Precisions {
    fn from(precision: WeightPrecision) -> Self {
        Self(Kind::All(precision))
    }
}

impl Precisions {
    /// What a file has. Matrices that need the same precision get the finest of theirs.
    fn of_file(checkpoint: &Checkpoint) -> Self {
        let mut stacks = BTreeMap::new();
        for tensor in checkpoint.config().tensors().iter().filter(|t| is_matrix(t)) {
            let precision = match checkpoint.storage(&tensor.name) {
                Ok(Storage::Int4) => WeightPrecision::Int4,
                Ok(Storage::Int8) => WeightPrecision::Int8,
                Ok(Storage::F16 | Storage::F32) | Err(_) => WeightPrecision::F16,
            };
            let of_stack = stacks.entry(stack(&tensor.name)).or_insert(precision);
            *of_stack = precision.max(*of_stack);
        }
        Self(Kind::Each(stacks))
    }

    /// The precision of a tensor; f32 where it is no large matrix.
    pub fn of(&self, tensor: &TensorSpec) -> WeightPrecision {
        match &self.0 {
            _ if !is_matrix(tensor) => WeightPrecision::F32,
            Kind::All(precision) => *precision,
            Kind::Each(stacks) => {
                stacks.get(&stack(&tensor.name)).copied().unwrap_or(WeightPrecision::F16)
            }
        }
    }
}

/// Names each once, the coarsest first: "int8 and f16".
impl fmt::Display for Precisions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kinds: BTreeSet<_> = match &self.0 {
            Kind::All(precision) => BTreeSet::from([*precision]),
            Kind::Each(stacks) => stacks.values().copied().collect(),
        };
        let names: Vec<_> = kinds.iter().map(WeightPrecision::to_string).collect();
        f.write_str(&names.join(" and "))
    }
}

/// Matrices that lie in one buffer, or that a kernel reads side by side, have one name here: all experts of a layer,
/// and both first factors of `SwiGLU`.
fn stack(tensor: &str) -> String {
    let tensor = tensor.replace(".up_proj.", ".gate_proj.");
    match tensor.split_once(".experts.") {
        None => tensor,
        Some((layer, rest)) => {
            let layer_of_expert = rest.trim_start_matches(|c: char| c.is_ascii_digit());
            format!("{layer}.experts{layer_of_expert}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_read_together_has_one_precision() {
        let experts =
            ["0.gate_proj", "11.up_proj"].map(|e| format!("blocks.3.mlp.experts.{e}.weight"));
        assert_eq!(stack(&experts[0]), stack(&experts[1]));
        let apart = [
            experts[0].as_str(),
            "blocks.13.mlp.experts.0.gate_proj.weight",
            "blocks.3.mlp.experts.0.down_proj.weight",
            "blocks.3.mlp.shared_experts.up_proj.weight",
            "blocks.3.attn.qkv.weight",
        ];
        assert_eq!(apart.map(stack).into_iter().collect::<BTreeSet<_>>().len(), apart.len());
    }
}
