//! A feed-forward network: a dense block's, one expert, or the shared expert.

use super::config::FfnForm;
use super::spec::{Group, LinearSpec, Role};

/// A feed-forward network of hidden width `M`; its layers are descriptions or leaves of an engine.
#[derive(Debug)]
pub(crate) enum Ffn<T> {
    /// `fc2(gelu(fc1 x))`
    Gelu {
        /// `[M, D]`
        fc1: T,
        /// `[D, M]`
        fc2: T,
    },
    /// `fc2(silu(fc1 x))`
    Silu {
        /// `[M, D]`
        fc1: T,
        /// `[D, M]`
        fc2: T,
    },
    /// `down(silu(gate x) ⊙ up x)`
    SwiGlu {
        /// `[M, D]`
        gate_proj: T,
        /// `[M, D]`
        up_proj: T,
        /// `[D, M]`
        down_proj: T,
    },
}

impl Ffn<LinearSpec> {
    /// The layers of a network of width `d` and hidden width `m`; of an expert where `experts` names all of them.
    /// `swiglu_bias` says whether the layers of a `SwiGLU` have biases.
    pub(super) fn new(
        name: &str,
        experts: Option<&str>,
        (form, swiglu_bias): (FfnForm, bool),
        [d, m]: [usize; 2],
    ) -> Self {
        let layer = |layer: &str, beside: &str, shape: [usize; 2]| {
            let mut spec = LinearSpec::new(&format!("{name}.{layer}"), &shape, Role::Matrix);
            spec.weight.group = Group(format!("{}.{beside}", experts.unwrap_or(name)));
            if form == FfnForm::SwiGlu && !swiglu_bias {
                spec.bias = None;
            }
            for tensor in std::iter::once(&mut spec.weight).chain(&mut spec.bias) {
                tensor.is_expert = experts.is_some();
            }
            spec
        };
        let fc1 = || layer("fc1", "fc1", [m, d]);
        let fc2 = || layer("fc2", "fc2", [d, m]);
        match form {
            FfnForm::Gelu => Self::Gelu { fc1: fc1(), fc2: fc2() },
            FfnForm::Silu => Self::Silu { fc1: fc1(), fc2: fc2() },
            FfnForm::SwiGlu => Self::SwiGlu {
                gate_proj: layer("gate_proj", "gate_proj", [m, d]),
                up_proj: layer("up_proj", "gate_proj", [m, d]),
                down_proj: layer("down_proj", "down_proj", [d, m]),
            },
        }
    }
}

impl<T> Ffn<T> {
    /// The same network with other layers.
    pub(crate) fn try_map<U, E>(
        &self,
        mut layer: impl FnMut(&T) -> Result<U, E>,
    ) -> Result<Ffn<U>, E> {
        Ok(match self {
            Self::Gelu { fc1, fc2 } => Ffn::Gelu { fc1: layer(fc1)?, fc2: layer(fc2)? },
            Self::Silu { fc1, fc2 } => Ffn::Silu { fc1: layer(fc1)?, fc2: layer(fc2)? },
            Self::SwiGlu { gate_proj, up_proj, down_proj } => Ffn::SwiGlu {
                gate_proj: layer(gate_proj)?,
                up_proj: layer(up_proj)?,
                down_proj: layer(down_proj)?,
            },
        })
    }

    /// `fc1` or `gate_proj`; `up_proj` where there is one; `fc2` or `down_proj`.
    pub(crate) fn layers(&self) -> (&T, Option<&T>, &T) {
        match self {
            Self::Gelu { fc1, fc2 } | Self::Silu { fc1, fc2 } => (fc1, None, fc2),
            Self::SwiGlu { gate_proj, up_proj, down_proj } => (gate_proj, Some(up_proj), down_proj),
        }
    }

    /// Its layers in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        let (first, second, last) = self.layers();
        std::iter::once(first).chain(second).chain([last])
    }
}
