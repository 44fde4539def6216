//! The list of a model's tensors, and how many numbers they hold.

use std::convert::Infallible;
use std::future::Future as _;
use std::marker::PhantomData;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use super::config::Config;
use super::ffn::Ffn;
use super::leaf::Source;
use super::spec::{LinearSpec, Role, TensorSpec};
use super::weights::Weights;

/// What the names of a refiner's tensors begin with in the file of a model.
pub const REFINER: &str = "refiner.";

/// The description of a leaf, for those who only look at a model.
pub(crate) enum Seen<'a> {
    /// A linear layer of any kind.
    Linear(&'a LinearSpec),
    /// All experts of an MoE layer.
    Experts(&'a [Ffn<LinearSpec>]),
    /// A convolution.
    Conv(&'a LinearSpec),
    /// Tables one below the other; there may be none.
    Stack(&'a [TensorSpec]),
    /// Numbers that stay with the processor, and those that only the trainer reads.
    Aside(&'a TensorSpec),
}

/// A source that keeps nothing; `E` ends the walk early.
struct Look<F, E>(F, PhantomData<E>);

impl<E, F: FnMut(Seen<'_>) -> Result<(), E>> Source<()> for Look<F, E> {
    type Error = E;

    fn linear(&mut self, spec: &LinearSpec) -> Result<(), E> {
        (self.0)(Seen::Linear(spec))
    }

    fn table(&mut self, spec: &TensorSpec) -> Result<(), E> {
        self.stack(std::slice::from_ref(spec))
    }

    fn stack(&mut self, specs: &[TensorSpec]) -> Result<(), E> {
        (self.0)(Seen::Stack(specs))
    }

    fn time(&mut self, spec: &LinearSpec) -> Result<(), E> {
        self.buffer(&spec.weight);
        spec.bias.iter().for_each(|bias| self.buffer(bias));
        Ok(())
    }

    fn modulation(&mut self, spec: &LinearSpec) -> Result<(), E> {
        self.linear(spec)
    }

    fn experts(&mut self, specs: &[Ffn<LinearSpec>]) -> Result<(), E> {
        (self.0)(Seen::Experts(specs))
    }

    fn conv(&mut self, spec: &LinearSpec) -> Result<(), E> {
        (self.0)(Seen::Conv(spec))
    }

    fn values(&mut self, spec: &TensorSpec) -> Result<Vec<f32>, E> {
        (self.0)(Seen::Aside(spec)).map(|()| Vec::new())
    }

    fn buffer(&mut self, spec: &TensorSpec) {
        // The next leaf ends the walk.
        drop((self.0)(Seen::Aside(spec)));
    }
}

/// Shows every leaf of a model, in the order of the official `state_dict`.
pub(crate) fn look(config: &Config, mut see: impl FnMut(Seen<'_>)) {
    let all = try_look(config, |seen| {
        see(seen);
        Ok::<_, Infallible>(())
    });
    match all {
        Ok(()) => {}
        Err(never) => match never {},
    }
}

/// As [`look`], until `see` fails.
fn try_look<E>(config: &Config, see: impl FnMut(Seen<'_>) -> Result<(), E>) -> Result<(), E> {
    let mut source = Look(see, PhantomData);
    let walk = pin!(Weights::visit(config, &mut source));
    match walk.poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(walked) => walked.map(drop),
        Poll::Pending => unreachable!("only a source that pauses keeps a walk waiting"),
    }
}

/// Adds the tensors of a leaf.
fn add(list: &mut Vec<TensorSpec>, seen: &Seen<'_>) {
    let linear = |spec: &LinearSpec| [Some(spec.weight.clone()), spec.bias.clone()];
    match seen {
        Seen::Linear(spec) | Seen::Conv(spec) => {
            list.extend(linear(spec).into_iter().flatten());
        }
        Seen::Experts(all) => {
            list.extend(all.iter().flat_map(Ffn::iter).flat_map(linear).flatten());
        }
        Seen::Stack(specs) => list.extend_from_slice(specs),
        Seen::Aside(spec) => list.push((*spec).clone()),
    }
}

impl Config {
    /// Every tensor of the model, in the order of the official `state_dict`.
    pub fn tensors(&self) -> Vec<TensorSpec> {
        let mut list = Vec::new();
        look(self, |seen| add(&mut list, &seen));
        list
    }

    /// As [`Config::tensors`]; `None` if there are more than `most`, without listing them all.
    pub(crate) fn tensors_up_to(&self, most: usize) -> Option<Vec<TensorSpec>> {
        let mut list = Vec::new();
        let walked = try_look(self, |seen| {
            add(&mut list, &seen);
            if list.len() > most { Err(()) } else { Ok(()) }
        });
        walked.ok().map(|()| list)
    }

    /// Every tensor of the model's file: its own, then those of its refiner, with [`REFINER`] before their names.
    pub fn stored_tensors(&self) -> Vec<TensorSpec> {
        self.stored_up_to(usize::MAX).unwrap_or_default()
    }

    /// As [`Config::stored_tensors`]; `None` if there are more than `most`, without listing them all.
    pub(crate) fn stored_up_to(&self, most: usize) -> Option<Vec<TensorSpec>> {
        let mut list = self.tensors_up_to(most)?;
        if let Some(refiner) = &self.refiner {
            let of_refiner = |mut spec: TensorSpec| {
                for name in [&mut spec.name, &mut spec.group.0] {
                    name.insert_str(0, REFINER);
                }
                spec
            };
            list.extend(refiner.config.tensors_up_to(most)?.into_iter().map(of_refiner));
        }
        Some(list)
    }

    /// Number of parameters as the official code counts them: the position embedding is one, thresholds are not.
    pub fn parameters(&self) -> usize {
        let is_parameter = |t: &&TensorSpec| !matches!(t.role, Role::Threshold | Role::Buffer);
        elements(self.tensors().iter().filter(is_parameter))
    }

    /// Parameters that a token meets when `capacity` experts work on it in every MoE layer; router and
    /// capacity predictor count in full.
    pub fn activated_parameters(&self, capacity: f64) -> usize {
        let experts = elements(self.tensors().iter().filter(|t| t.is_expert));
        let share = capacity / self.num_experts.max(1) as f64;
        self.parameters() - experts + (experts as f64 * share).round() as usize
    }
}

fn elements<'a>(tensors: impl Iterator<Item = &'a TensorSpec>) -> usize {
    tensors.map(|t| t.elements() as usize).sum()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn small_e16(input_size: usize, heads: usize) -> Config {
        Config::from_json(&format!(
            r#"{{"kind":"diffmoe","t_kind":"flow","params":{{"input_size":{input_size},"num_classes":1000,
            "patch_size":2,"depth":12,"hidden_size":384,"num_heads":{heads},
            "MoE_config":{{"num_experts":16,"capacity":1,"n_shared_experts":0,"interleave":true}}}}}}"#
        ))
        .unwrap()
    }

    #[test]
    fn parameter_counts_match_the_official_models() {
        // The authors' own log printed the first; the second is the same model at 256 px.
        assert_eq!(small_e16(16, 16).parameters(), 140_191_616);
        assert_eq!(small_e16(32, 6).parameters(), 140_265_344);
    }

    /// The trainer's exporter is tested with the same file.
    #[test]
    fn the_large_matrices_are_those_that_the_trainer_quantises() {
        let fixture = include_str!("../../tests/fixtures/matrix_names.txt");
        let lines = fixture.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
        let mut cases: Vec<(&str, Vec<&str>)> = Vec::new();
        for line in lines {
            match cases.last_mut() {
                Some((_, names)) if !line.starts_with('{') => names.push(line),
                _ => cases.push((line, Vec::new())),
            }
        }
        assert_eq!(cases.len(), 3);
        for (config, names) in cases {
            let tensors = Config::from_json(config).unwrap().tensors();
            let matrices = tensors.iter().filter(|t| t.is_matrix());
            assert_eq!(matrices.map(|t| t.name.as_str()).collect::<Vec<_>>(), names, "{config}");
        }
    }

    #[test]
    fn matrices_that_are_read_together_are_of_one_group() {
        let config = Config::from_json(
            r#"{"kind":"tc","t_kind":"flow","params":{"input_size":4,"num_classes":1,"patch_size":2,
            "depth":2,"hidden_size":16,"num_heads":2,"use_swiglu":true,
            "MoE_config":{"num_experts":2,"capacity":1,"n_shared_experts":1,"interleave":false}}}"#,
        );
        let tensors = config.unwrap().tensors();
        let group = |name: &str| {
            let name = format!("blocks.{name}.weight");
            &tensors.iter().find(|t| t.name == name).unwrap().group
        };
        let gates = group("1.mlp.experts.0.gate_proj");
        assert_eq!(gates.0, "blocks.1.mlp.experts.gate_proj");
        for same in ["1.mlp.experts.1.gate_proj", "1.mlp.experts.0.up_proj"] {
            assert_eq!(group(same), gates);
        }
        let apart = [
            "1.mlp.experts.0.down_proj",
            "0.mlp.experts.0.gate_proj",
            "1.mlp.shared_experts.up_proj",
            "1.attn.qkv",
        ];
        let groups: BTreeSet<_> = apart.into_iter().map(group).chain([gates]).collect();
        assert_eq!(groups.len(), 5);
    }
}
