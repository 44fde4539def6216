//! The shapes of the paper's models by name: sizes S to XL as dense DiT, DiffMoE, token choice and expert
//! choice, for both kinds of training (paper Tables 1, 5 and 9).

use std::str::FromStr;

use serde_json::{Value, json};

use super::{Config, ConfigError, Kind, MOST_EXPERTS, Objective};

/// A shape of the paper. Its name is `[dense-|diffmoe-|tc-|ec-]SIZE[-En][-flow|-ddpm]`, as in `L-E8`,
/// `dense-XL-ddpm` or `ec-S-E16`; `dit-moe-SIZE-nE2A` is DiT-MoE, `dsmoe-SIZE-En` DSMoE, `promoe-SIZE` `ProMoE`, and
/// `promoe-ec-L` the one with expert choice. Case does not matter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Preset {
    /// Architecture.
    pub kind: Kind,
    /// One of [`SIZES`], `G` of DiT-MoE, or `3B` of DSMoE.
    pub size: &'static str,
    /// `E`; 0 for a dense model.
    pub experts: usize,
    /// Whose model it is.
    pub family: PresetFamily,
    /// Kind of training.
    pub objective: Objective,
    /// Height and width of the latent: 32 for images of 256 pixels.
    pub input_size: [usize; 2],
    /// `L`, `D` and `H`.
    dimensions: [usize; 3],
}

/// Where the shape of a preset comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PresetFamily {
    /// The `DiffMoE` paper.
    Paper,
    /// DiT-MoE (Fei et al. 2024, arXiv 2407.11633): `SwiGLU` experts in every block, top-2 token choice, and two shared
    /// experts; XL and G are flow models with normalised queries and keys.
    DitMoe,
    /// DSMoE (Liu et al. 2025, arXiv 2512.01252): a sigmoid router, `SwiGLU` experts with one shared, 2-D RoPE.
    DsMoe,
    /// `ProMoE` (Wei et al. 2025, arXiv 2510.24711): a router by prototypes, GELU experts with one shared, and an expert for
    /// samples without a label.
    ProMoe,
    /// JiT for 256 pixels (Li and He 2025, arXiv 2511.13720) in this program's layout, and JiTMoE, with the router of DSMoE:
    /// RMS norms, 2-D RoPE and 32 tokens that carry the label in the later blocks.
    Jit,
}

/// Names of the sizes.
pub const SIZES: [&str; 7] = ["S", "B", "L", "XL", "XXL", "XXXL", "S-128"];

/// Blocks, hidden size and heads of a size. The paper does not state those of XL (DiT's are taken), XXL and
/// XXXL (they follow from its numbers of parameters). `S-128` is the one configuration that the official code
/// came with: 16 heads, and images of 128 pixels.
fn dimensions(size: &str) -> [usize; 3] {
    match size {
        "B" => [12, 768, 12],
        "L" => [24, 1024, 16],
        "XL" => [28, 1152, 16],
        "XXL" => [32, 1280, 16],
        "G" => [40, 1408, 16],
        "XXXL" => [36, 1440, 15],
        "S-128" => [12, 384, 16],
        _ => [12, 384, 6],
    }
}

/// An unknown preset.
#[derive(Debug, thiserror::Error)]
#[error(
    "unknown preset {0:?}: names are like S-E16, L-E8, dense-XL, tc-B-E16 or ec-L-E8-ddpm, \
     with sizes S, B, L, XL, XXL, XXXL, S-128 (the official configuration) and 1 to 64 experts, \
     dit-moe-S-8E2A or -16E2A (S or B), dit-moe-XL-8E2A, dit-moe-G-16E2A, dsmoe-S-E16 or -E48 (S, B or L), dsmoe-3B-E16, \
     promoe-S (S, B, L or XL), promoe-ec-L, jit-B (B, L or H), jitmoe-B-E16 or -E48, jitmoe-L-E16, or jitmoe-H-E16"
)]
pub struct UnknownPreset(String);

impl FromStr for Preset {
    type Err = UnknownPreset;

    fn from_str(text: &str) -> Result<Self, UnknownPreset> {
        let unknown = || UnknownPreset(text.to_owned());
        let name = text.to_lowercase();
        if let Some(rest) = name.strip_prefix("dit-moe-") {
            return Self::dit_moe(rest).ok_or_else(unknown);
        }
        if let Some(rest) = name.strip_prefix("dsmoe-") {
            return Self::dsmoe(rest.strip_suffix("-flow").unwrap_or(rest)).ok_or_else(unknown);
        }
        if let Some(rest) = name.strip_prefix("promoe-") {
            return Self::promoe(rest.strip_suffix("-flow").unwrap_or(rest)).ok_or_else(unknown);
        }
        if name.starts_with("jit") {
            return Self::jit(name.strip_suffix("-flow").unwrap_or(&name)).ok_or_else(unknown);
        }
        let (name, objective) = match name.strip_suffix("-ddpm") {
            Some(rest) => (rest, Objective::Ddpm),
            None => (name.strip_suffix("-flow").unwrap_or(&name), Objective::Flow),
        };
        let prefixes = [
            ("dense-", Kind::Dense),
            ("diffmoe-", Kind::DiffMoe),
            ("tc-", Kind::Tc),
            ("ec-", Kind::Ec),
        ];
        let named = prefixes.iter().find_map(|(p, kind)| Some((name.strip_prefix(p)?, *kind)));
        let (rest, kind) = named.map_or((name, None), |(rest, kind)| (rest, Some(kind)));
        let (size, experts) = match rest.split_once("-e") {
            Some((size, count)) => (size, count.parse().map_err(|_| unknown())?),
            None => (rest, 0),
        };
        let size = SIZES.into_iter().find(|s| s.eq_ignore_ascii_case(size)).ok_or_else(unknown)?;
        let kind = kind.unwrap_or(if experts == 0 { Kind::Dense } else { Kind::DiffMoe });
        if (kind == Kind::Dense) != (experts == 0) || experts > MOST_EXPERTS {
            return Err(unknown());
        }
        let input_size = if size == "S-128" { [16; 2] } else { [32; 2] };
        let (family, dimensions) = (PresetFamily::Paper, dimensions(size));
        Ok(Self { kind, size, experts, family, objective, input_size, dimensions })
    }
}

impl std::fmt::Display for Preset {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.family {
            PresetFamily::Paper => {}
            PresetFamily::DitMoe => {
                let objective = if self.objective == Objective::Flow { "Flow" } else { "DDPM" };
                return write!(f, "DiT-MoE-{}-{}E2A-{objective}", self.size, self.experts);
            }
            PresetFamily::DsMoe => return write!(f, "DSMoE-{}-E{}-Flow", self.size, self.experts),
            PresetFamily::ProMoe => {
                let kind = if self.kind == Kind::Ec { "-EC" } else { "" };
                return write!(f, "ProMoE{kind}-{}-Flow", self.size);
            }
            PresetFamily::Jit if self.experts == 0 => return write!(f, "JiT-{}-Flow", self.size),
            PresetFamily::Jit => return write!(f, "JiTMoE-{}-E{}-Flow", self.size, self.experts),
        }
        let kind = match self.kind {
            Kind::Dense => "Dense",
            Kind::Tc => "TC",
            Kind::Ec => "EC",
            Kind::DiffMoe => "DiffMoE",
        };
        write!(f, "{kind}-{}", self.size)?;
        if self.experts > 0 {
            write!(f, "-E{}", self.experts)?;
        }
        f.write_str(match self.objective {
            Objective::Flow => "-Flow",
            Objective::Ddpm => "-DDPM",
        })
    }
}

impl Preset {
    /// One of the published DiT-MoE models, named like `s-8e2a`: S and B were trained with DDPM, XL and G as flow models. G
    /// draws images of 512 pixels.
    fn dit_moe(name: &str) -> Option<Self> {
        let (name, asked) = match (name.strip_suffix("-ddpm"), name.strip_suffix("-flow")) {
            (Some(name), _) => (name, Some(Objective::Ddpm)),
            (_, Some(name)) => (name, Some(Objective::Flow)),
            _ => (name, None),
        };
        let (size, experts, objective) = match name {
            "s-8e2a" => ("S", 8, Objective::Ddpm),
            "s-16e2a" => ("S", 16, Objective::Ddpm),
            "b-8e2a" => ("B", 8, Objective::Ddpm),
            "b-16e2a" => ("B", 16, Objective::Ddpm),
            "xl-8e2a" => ("XL", 8, Objective::Flow),
            "g-16e2a" => ("G", 16, Objective::Flow),
            _ => return None,
        };
        if asked.is_some_and(|asked| asked != objective) {
            return None;
        }
        let input_size = if size == "G" { [64; 2] } else { [32; 2] };
        let (family, dimensions) = (PresetFamily::DitMoe, dimensions(size));
        Some(Self { kind: Kind::Tc, size, experts, family, objective, input_size, dimensions })
    }

    /// One of the published DSMoE models, named like `s-e16`.
    fn dsmoe(name: &str) -> Option<Self> {
        let (size, experts, dimensions) = match name {
            "s-e16" => ("S", 16, [10, 384, 6]),
            "s-e48" => ("S", 48, [12, 384, 6]),
            "b-e16" => ("B", 16, [10, 768, 12]),
            "b-e48" => ("B", 48, [12, 768, 12]),
            "l-e16" => ("L", 16, [20, 1024, 16]),
            "l-e48" => ("L", 48, [24, 1024, 16]),
            "3b-e16" => ("3B", 16, [30, 1152, 16]),
            _ => return None,
        };
        let (kind, objective) = (Kind::Tc, Objective::Flow);
        let (family, input_size) = (PresetFamily::DsMoe, [32; 2]);
        Some(Self { kind, size, experts, family, objective, input_size, dimensions })
    }

    /// One of the published `ProMoE` models, named like `s`: twelve experts with prototypes, and one for samples without a
    /// label. `ec-l` is the one whose experts choose.
    fn promoe(name: &str) -> Option<Self> {
        let (kind, name) = match name {
            "ec-l" => (Kind::Ec, "L"),
            name => (Kind::Tc, name),
        };
        let size = ["S", "B", "L", "XL"].into_iter().find(|s| s.eq_ignore_ascii_case(name))?;
        let (objective, experts) = (Objective::Flow, 13);
        let (family, dimensions) = (PresetFamily::ProMoe, dimensions(size));
        Some(Self { kind, size, experts, family, objective, input_size: [32; 2], dimensions })
    }

    /// One of the published models of JiT and JiTMoE with patches of 16, named like `jit-b` and `jitmoe-b-e16`.
    fn jit(name: &str) -> Option<Self> {
        let (size, experts, dimensions) = match name {
            "jit-b" => ("B", 0, [12, 768, 12]),
            "jit-l" => ("L", 0, [24, 1024, 16]),
            "jit-h" => ("H", 0, [32, 1280, 16]),
            "jitmoe-b-e16" => ("B", 16, [10, 768, 12]),
            "jitmoe-b-e48" => ("B", 48, [12, 768, 12]),
            "jitmoe-l-e16" => ("L", 16, [20, 1024, 16]),
            "jitmoe-h-e16" => ("H", 16, [28, 1280, 16]),
            _ => return None,
        };
        let kind = if experts == 0 { Kind::Dense } else { Kind::Tc };
        let (family, objective, input_size) = (PresetFamily::Jit, Objective::Flow, [256; 2]);
        Some(Self { kind, size, experts, family, objective, input_size, dimensions })
    }

    /// What JiT has beside a plain transformer.
    fn add_jit(self, params: &mut Value) {
        let d = self.dimensions[1];
        // ⌊D · 4 · 2/3⌋, which `convert` fills up to a multiple of four.
        let width = (d * 8 / 3).next_multiple_of(4);
        let more = json!({
            "in_channels": 3, "patch_size": 16, "mlp_ratio": width as f64 / d as f64, "use_swiglu": true, "swiglu_bias": true,
            "norm_type": "rmsnorm", "rope_type": "2d", "pos_embed": true, "qk_norm": true, "qk_norm_eps": 1e-6,
            "learn_sigma": false, "prediction": "data", "context_tokens": 32,
            "context_start": match self.size { "B" => 4, "L" => 8, _ => 10 },
        });
        for (key, value) in more.as_object().into_iter().flatten() {
            params[key] = value.clone();
        }
        if self.experts > 0 {
            let (width, chosen) = match (self.size, self.experts) {
                (_, 48) => (256, 5),
                ("B", _) => (1536, 2),
                _ => (2048, 2),
            };
            params["MoE_config"] = json!({
                "router": "sigmoid", "num_experts": self.experts, "capacity": chosen, "moe_intermediate_size": width,
                "routed_scaling_factor": 2.5, "interleave": true
            });
        }
    }

    /// Hidden width of an expert of DSMoE, and how many a token takes with weights of which sum.
    fn choice_of_dsmoe(self) -> (usize, usize, f32) {
        let width = match (self.size, self.experts) {
            ("3B", _) => 2880,
            ("L", 48) => 448,
            (_, 48) => self.dimensions[1] / 3,
            _ => 2 * self.dimensions[1],
        };
        if self.experts == 48 { (width, 5, 2.5) } else { (width, 2, 2.0) }
    }

    /// The configuration as JSON, in the form that checkpoints carry.
    pub fn to_json(self) -> String {
        let [depth, hidden_size, num_heads] = self.dimensions;
        let (kind, t_kind) = (self.kind, self.objective);
        // A square is one number, as in the official files.
        let input_size = match self.input_size {
            [height, width] if height == width => json!(width),
            sides => json!(sides),
        };
        let mut params = json!({
            "input_size": input_size, "num_classes": 1000, "patch_size": 2, "depth": depth,
            "hidden_size": hidden_size, "num_heads": num_heads, "mlp_ratio": 4, "use_swiglu": false
        });
        if self.family == PresetFamily::Jit {
            self.add_jit(&mut params);
        } else if self.family == PresetFamily::DsMoe {
            let (width, chosen, scale) = self.choice_of_dsmoe();
            params["mlp_act"] = json!("silu");
            params["rope_type"] = json!("2d");
            params["MoE_config"] = json!({
                "router": "sigmoid", "num_experts": self.experts, "capacity": chosen, "moe_intermediate_size": width,
                "routed_scaling_factor": scale, "interleave": true
            });
        } else if self.family == PresetFamily::ProMoe {
            params["prediction"] = json!("reversed");
            params["MoE_config"] = json!({
                "router": "prototypes", "num_experts": self.experts, "capacity": 1, "interleave": true,
                "moe_intermediate_size": 2 * hidden_size, "shared_expert_intermediate_size": 2 * hidden_size,
            });
        } else if self.family == PresetFamily::DitMoe {
            if t_kind == Objective::Flow {
                params["qk_norm"] = json!(true);
                params["qk_norm_eps"] = json!(1e-6);
                params["prediction"] = json!("reversed");
            }
            params["use_swiglu"] = json!(true);
            params["MoE_config"] = json!({
                "num_experts": self.experts, "capacity": 2, "n_shared_experts": 2, "interleave": false
            });
        } else if self.experts > 0 {
            params["MoE_config"] = json!({
                "num_experts": self.experts, "capacity": 1, "n_shared_experts": 0, "interleave": true
            });
        }
        let solver = match t_kind {
            Objective::Flow => "euler",
            Objective::Ddpm => "ddpm",
        };
        let mut document = json!({
            "name": self.to_string(), "kind": kind, "t_kind": t_kind, "null_class": 1000, "params": params,
            "defaults": { "steps": 250, "guidance": 1.5, "solver": solver }
        });
        if self.family == PresetFamily::ProMoe {
            document["time_scale"] = json!(1000);
        }
        if self.family == PresetFamily::Jit {
            document["space"] = json!("pixels");
            document["defaults"] = json!({ "steps": 50, "guidance": 2.9, "solver": "heun" });
        }
        document.to_string()
    }

    /// The same for samples of another height and width.
    ///
    /// # Errors
    /// When patches do not fill such samples, or there would be too many.
    pub fn of_size(self, input_size: [usize; 2]) -> Result<Self, ConfigError> {
        let preset = Self { input_size, ..self };
        Config::from_json(&preset.to_json()).map(|_| preset)
    }

    /// The configuration.
    ///
    /// # Panics
    /// Never: every preset is a model that can exist.
    pub fn config(self) -> Config {
        Config::from_json(&self.to_json()).expect("a preset can exist")
    }
}

#[cfg(test)]
#[path = "presets_tests.rs"]
mod tests;
