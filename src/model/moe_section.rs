//! The section `MoE_config` of a model's description: the experts, and how tokens find them.

use serde::Deserialize;
use serde_json::Value;

use super::config::{FfnForm, Kind, Router};
use super::error::ConfigError;

fn one_expert() -> f64 {
    1.0
}
fn yes() -> bool {
    true
}

/// The section as it stands in the document.
#[derive(Deserialize)]
pub(super) struct MoeParams {
    pub(super) num_experts: usize,
    #[serde(default = "one_expert")]
    pub(super) capacity: f64,
    #[serde(default)]
    n_shared_experts: Option<usize>,
    #[serde(default = "yes")]
    pub(super) interleave: bool,
    #[serde(default)]
    router: RouterParams,
    // The keys below are those of DSMoE. With a softmax router they have no meaning, as in the official code.
    #[serde(default)]
    moe_intermediate_size: Option<usize>,
    #[serde(default)]
    routed_scaling_factor: Option<f32>,
    #[serde(default)]
    use_shared_expert: Option<bool>,
    // These two are those of ProMoE, as some of the above.
    #[serde(default)]
    shared_expert_intermediate_size: Option<usize>,
    #[serde(default = "yes")]
    use_uncond_expert: bool,
    #[serde(default)]
    n_group: Option<usize>,
    #[serde(default)]
    topk_group: Option<usize>,
    /// A number of blocks; `true` is 2.
    #[serde(default)]
    skip_first2: Option<Value>,
}

/// What becomes of the scores.
#[derive(Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum RouterParams {
    #[default]
    Softmax,
    Sigmoid,
    Prototypes,
}

/// The experts of an MoE layer.
pub(super) struct Experts {
    /// `M`
    pub(super) hidden: usize,
    pub(super) form: FfnForm,
    /// 0 for none.
    pub(super) shared_hidden: usize,
    pub(super) shared_form: FfnForm,
    pub(super) router: Router,
}

impl Experts {
    /// Of a model of width `d` whose other blocks have a network of this width; `form` is that of its experts unless the
    /// router tells.
    ///
    /// # Errors
    /// When the section asks for what is not supported.
    pub(super) fn new(
        kind: Kind,
        d: usize,
        (hidden, form): (usize, FfnForm),
        moe: Option<&MoeParams>,
    ) -> Result<Self, ConfigError> {
        match moe {
            Some(MoeParams { router: RouterParams::Sigmoid, .. }) if kind != Kind::Tc => {
                return wrong("a sigmoid router; only token choice (kind \"tc\") has it");
            }
            Some(MoeParams { router: RouterParams::Prototypes, .. })
                if !matches!(kind, Kind::Tc | Kind::Ec) =>
            {
                return wrong(
                    "a router by prototypes; only token choice (kind \"tc\") and expert choice (\"ec\") have it",
                );
            }
            Some(moe @ MoeParams { router: RouterParams::Sigmoid, .. }) => {
                return Self::of_sigmoid_router(moe);
            }
            Some(moe @ MoeParams { router: RouterParams::Prototypes, .. }) => {
                return Self::of_prototypes(kind, moe);
            }
            _ => {}
        }
        let shared = moe.and_then(|m| m.n_shared_experts).unwrap_or(0);
        // DiffMoE's shared expert is one GELU network of width 8D whatever their number; the
        // baselines use a SwiGLU of width n·D.
        let (shared_hidden, shared_form) = match (kind, shared) {
            (_, 0) | (Kind::Dense, _) => (0, FfnForm::Gelu),
            (Kind::DiffMoe, _) => (d.saturating_mul(8), FfnForm::Gelu),
            (Kind::Tc | Kind::Ec, n) => (d.saturating_mul(n), FfnForm::SwiGlu),
        };
        Ok(Self { hidden, form, shared_hidden, shared_form, router: Router::Softmax })
    }

    /// Those of DSMoE: `SwiGLU`, the shared expert as wide as the others.
    fn of_sigmoid_router(moe: &MoeParams) -> Result<Self, ConfigError> {
        let Some(hidden) = moe.moe_intermediate_size else {
            return wrong("a sigmoid router without moe_intermediate_size, the width of an expert");
        };
        if moe.topk_group < moe.n_group {
            return wrong("topk_group below n_group; selection within groups is not supported");
        }
        if moe.skip_first2.as_ref().is_some_and(|skip| *skip != false && *skip != 0) {
            return wrong("skip_first2; leading blocks without experts are not supported");
        }
        if moe.use_shared_expert == Some(false) {
            return wrong("use_shared_expert false; a sigmoid router needs the shared expert");
        }
        let scale = moe.routed_scaling_factor.unwrap_or(1.0);
        if !(scale > 0.0 && scale.is_finite()) {
            return wrong("a routed_scaling_factor that is not above 0");
        }
        let (form, router) = (FfnForm::SwiGlu, Router::Sigmoid { scale });
        Ok(Self { hidden, form, shared_hidden: hidden, shared_form: form, router })
    }

    /// Those of `ProMoE`: GELU, with a shared expert of another width.
    fn of_prototypes(kind: Kind, moe: &MoeParams) -> Result<Self, ConfigError> {
        let Some(hidden) = moe.moe_intermediate_size else {
            return wrong(
                "a router by prototypes without moe_intermediate_size, the width of an expert",
            );
        };
        if kind == Kind::Tc && !(1.0..2.0).contains(&moe.capacity) {
            return wrong(
                "a router by prototypes with a capacity other than 1; a token takes one expert",
            );
        }
        let unconditional = moe.use_uncond_expert;
        if unconditional && moe.num_experts < 2 {
            return wrong("use_uncond_expert with less than two experts");
        }
        let shared_hidden = match (moe.use_shared_expert, moe.shared_expert_intermediate_size) {
            (Some(false), _) => 0,
            (_, Some(width)) => width,
            (_, None) => {
                return wrong(
                    "a router by prototypes without shared_expert_intermediate_size; without a shared expert, \
                     use_shared_expert is false",
                );
            }
        };
        let (form, router) = (FfnForm::Gelu, Router::Prototypes { unconditional });
        Ok(Self { hidden, form, shared_hidden, shared_form: form, router })
    }
}

fn wrong<T>(text: &str) -> Result<T, ConfigError> {
    Err(ConfigError::Invalid(text.into()))
}
