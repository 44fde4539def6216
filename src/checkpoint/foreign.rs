//! Maps the tensor names of other projects' models to those of the official `DiffMoE` code.

/// Submodules of a block: their name in other code, and the official name.
const PARTS: [(&str, &str); 5] = [
    // DiT-MoE (arXiv 2407.11633): `moe.experts`, `moe.gate`, `moe.shared_experts`, of the same shapes.
    ("moe.", "mlp."),
    // Its models XL and G.
    ("attn.Wqkv.", "attn.qkv."),
    ("attn.out_proj.", "attn.proj."),
    // DSMoE and JiTMoE (arXiv 2512.01252).
    ("mlp.experts.blocks.", "mlp.experts."),
    // ProMoE (arXiv 2510.24711).
    ("mlp.shared_expert.", "mlp.shared_experts."),
];

/// What all names begin with where the code of JiT has saved its denoiser, which holds the model.
const NET: &str = "net.";

/// Layers of networks with two layers in `ProMoE`, and their official names.
const LAYERS: [(&str, &str); 2] = [(".up_proj.", ".fc1."), (".down_proj.", ".fc2.")];

/// Whether tensors of these names are those of a JiT or JiTMoE (arXiv 2511.13720 and 2512.01252), which are not only
/// named differently.
pub(super) fn is_jit<'a>(names: impl IntoIterator<Item = &'a str>) -> bool {
    names.into_iter().any(|name| name.contains(".mlp.") && name.ends_with(".w12.weight"))
}

/// The names of a file.
#[derive(Clone, Copy, Debug)]
pub(super) struct Names {
    /// Whether all begin with [`NET`].
    is_net: bool,
    /// Whether `up_proj` and `down_proj` are the layers of a network without a `gate_proj`.
    is_promoe: bool,
}

impl Names {
    /// Of a file with these tensors.
    pub(super) fn of<'a>(names: impl IntoIterator<Item = &'a str>) -> Self {
        let mut found = Self { is_net: true, is_promoe: false };
        for name in names {
            found.is_net &= name.starts_with(NET);
            found.is_promoe |= name.ends_with(".mlp.cluster_centers");
        }
        found
    }

    /// The official name of a tensor.
    pub(super) fn official(self, name: &str) -> String {
        let name = name.strip_prefix(NET).filter(|_| self.is_net).unwrap_or(name);
        let renamed = || {
            let (block, rest) = name.strip_prefix("blocks.")?.split_once('.')?;
            let mut parts = PARTS.iter();
            let (rest, official) =
                parts.find_map(|(other, official)| Some((rest.strip_prefix(other)?, *official)))?;
            Some(format!("blocks.{block}.{official}{rest}"))
        };
        let name = renamed().unwrap_or_else(|| name.to_owned());
        if self.is_promoe && name.starts_with("blocks.") && name.contains(".mlp.") {
            return LAYERS.iter().fold(name, |name, (other, own)| name.replace(other, own));
        }
        name
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_blocks_are_renamed_and_nothing_else() {
        let gate = "blocks.11.mlp.gate.weight";
        for (name, want) in [
            ("blocks.11.moe.gate.weight", gate),
            (gate, gate),
            (
                "blocks.1.mlp.experts.blocks.3.up_proj.weight",
                "blocks.1.mlp.experts.3.up_proj.weight",
            ),
            ("blocks.3.attn.Wqkv.bias", "blocks.3.attn.qkv.bias"),
            ("blocks.3.attn.out_proj.weight", "blocks.3.attn.proj.weight"),
            ("blocks.0.moe", "blocks.0.moe"),
            ("blocks.0.attn.moe.weight", "blocks.0.attn.moe.weight"),
            ("moe.gate.weight", "moe.gate.weight"),
        ] {
            assert_eq!(Names::of([name]).official(name), want);
            let in_net = format!("net.{name}");
            assert_eq!(Names::of([&*in_net]).official(&in_net), want);
            assert_eq!(Names::of([&*in_net, "x"]).official(&in_net), in_net, "not all");
        }
    }

    #[test]
    fn networks_of_promoe_are_renamed_where_there_are_prototypes() {
        let names = Names::of(["x_embedder.proj.bias", "blocks.1.mlp.cluster_centers"]);
        for (name, want) in [
            ("blocks.1.mlp.experts.12.up_proj.bias", "blocks.1.mlp.experts.12.fc1.bias"),
            ("blocks.1.mlp.experts.0.down_proj.weight", "blocks.1.mlp.experts.0.fc2.weight"),
            ("blocks.1.mlp.shared_expert.up_proj.weight", "blocks.1.mlp.shared_experts.fc1.weight"),
            ("blocks.0.mlp.fc1.weight", "blocks.0.mlp.fc1.weight"),
            ("blocks.1.mlp.cluster_centers", "blocks.1.mlp.cluster_centers"),
        ] {
            assert_eq!(names.official(name), want);
            assert_eq!(names.official(want), want, "files of this program");
        }
        let up = "blocks.1.mlp.experts.0.up_proj.weight";
        assert_eq!(Names::of([up]).official(up), up);
    }
}
