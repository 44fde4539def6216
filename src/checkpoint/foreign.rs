//! Maps the tensor names of other projects' models to those of the official `DiffMoE` code.

/// Submodules of a block: their name in other code, and the official name.
const PARTS: [(&str, &str); 2] = [
    // DiT-MoE (arXiv 2407.11633): `moe.experts`, `moe.gate`, `moe.shared_experts`, of the same shapes.
    ("moe.", "mlp."),
    // DSMoE (arXiv 2512.01252).
    ("mlp.experts.blocks.", "mlp.experts."),
];

/// The official name of a tensor.
pub(super) fn official_name(name: &str) -> String {
    let renamed = || {
        let (block, rest) = name.strip_prefix("blocks.")?.split_once('.')?;
        let mut parts = PARTS.iter();
        let (rest, official) =
            parts.find_map(|(other, official)| Some((rest.strip_prefix(other)?, *official)))?;
        Some(format!("blocks.{block}.{official}{rest}"))
    };
    renamed().unwrap_or_else(|| name.to_owned())
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
            ("blocks.0.moe", "blocks.0.moe"),
            ("blocks.0.attn.moe.weight", "blocks.0.attn.moe.weight"),
            ("moe.gate.weight", "moe.gate.weight"),
        ] {
            assert_eq!(official_name(name), want);
        }
    }
}
