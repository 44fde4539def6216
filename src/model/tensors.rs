//! Which tensors follow from a configuration, and how many numbers they hold.

use super::config::{Config, FfnForm, Kind};

/// A tensor that a model needs: its official `state_dict` name and its shape.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorSpec {
    /// Official name.
    pub name: String,
    /// Shape, row-major, `Linear.weight` as `[out, in]`.
    pub shape: Vec<usize>,
}

impl TensorSpec {
    /// How many numbers it holds.
    pub fn elements(&self) -> u64 {
        self.shape.iter().map(|&n| n as u64).product()
    }
}

impl Config {
    /// Every tensor of the model, by official `state_dict` name, in `state_dict` order.
    pub fn tensors(&self) -> Vec<TensorSpec> {
        let (d, e, m) = (self.hidden_size, self.num_experts, self.ffn_hidden);
        let attn = self.num_heads * self.head_dim;
        let patch = self.patch_size;
        let mut list = Vec::new();
        let mut add = |name: String, shape: &[usize]| {
            list.push(TensorSpec { name, shape: shape.to_vec() });
        };
        add("pos_embed".into(), &[1, self.tokens(), d]);
        add("x_embedder.proj.weight".into(), &[d, self.in_channels, patch, patch]);
        add("x_embedder.proj.bias".into(), &[d]);
        add("t_embedder.mlp.0.weight".into(), &[d, 256]);
        add("t_embedder.mlp.0.bias".into(), &[d]);
        add("t_embedder.mlp.2.weight".into(), &[d, d]);
        add("t_embedder.mlp.2.bias".into(), &[d]);
        for table in &self.labels {
            add(table.tensor.clone(), &[table.null as usize + 1, d]);
        }
        for tensor in self.text.iter().flat_map(|text| text.tensors(d)) {
            add(tensor.name, &tensor.shape);
        }
        let ffn = |add: &mut dyn FnMut(String, &[usize]), prefix: &str, form: FfnForm, m: usize| {
            match form {
                FfnForm::Gelu => {
                    add(format!("{prefix}.fc1.weight"), &[m, d]);
                    add(format!("{prefix}.fc1.bias"), &[m]);
                    add(format!("{prefix}.fc2.weight"), &[d, m]);
                    add(format!("{prefix}.fc2.bias"), &[d]);
                }
                FfnForm::SwiGlu => {
                    add(format!("{prefix}.gate_proj.weight"), &[m, d]);
                    add(format!("{prefix}.up_proj.weight"), &[m, d]);
                    add(format!("{prefix}.down_proj.weight"), &[d, m]);
                }
            }
        };
        for i in 0..self.depth {
            let block = format!("blocks.{i}");
            add(format!("{block}.attn.qkv.weight"), &[3 * attn, d]);
            add(format!("{block}.attn.qkv.bias"), &[3 * attn]);
            if self.qk_norm {
                for part in ["q_norm.weight", "q_norm.bias", "k_norm.weight", "k_norm.bias"] {
                    add(format!("{block}.attn.{part}"), &[self.head_dim]);
                }
            }
            add(format!("{block}.attn.proj.weight"), &[d, attn]);
            add(format!("{block}.attn.proj.bias"), &[d]);
            for tensor in self.text.iter().flat_map(|text| text.block_tensors(i, d, attn)) {
                add(tensor.name, &tensor.shape);
            }
            let mlp = format!("{block}.mlp");
            if self.is_moe(i) {
                if self.kind == Kind::Tc {
                    for j in 0..e {
                        ffn(&mut add, &format!("{mlp}.experts.{j}"), self.ffn_form, m);
                    }
                    add(format!("{mlp}.gate.weight"), &[e, d]);
                } else {
                    add(format!("{mlp}.gate_weight"), &[e, d]);
                    if self.kind == Kind::DiffMoe {
                        add(format!("{mlp}.expert_threshold"), &[e]);
                        add(format!("{mlp}.ema_decay"), &[1]);
                    }
                    for j in 0..e {
                        ffn(&mut add, &format!("{mlp}.experts.{j}"), self.ffn_form, m);
                    }
                }
                if self.kind == Kind::DiffMoe {
                    add(format!("{mlp}.capacity_predictor.0.weight"), &[d, d]);
                    add(format!("{mlp}.capacity_predictor.0.bias"), &[d]);
                    add(format!("{mlp}.capacity_predictor.2.weight"), &[e, d]);
                    add(format!("{mlp}.capacity_predictor.2.bias"), &[e]);
                }
                if self.shared_hidden > 0 {
                    ffn(
                        &mut add,
                        &format!("{mlp}.shared_experts"),
                        self.shared_form,
                        self.shared_hidden,
                    );
                }
            } else {
                ffn(&mut add, &mlp, self.ffn_form, m);
            }
            add(format!("{block}.adaLN_modulation.1.weight"), &[6 * d, d]);
            add(format!("{block}.adaLN_modulation.1.bias"), &[6 * d]);
        }
        let out = patch * patch * self.out_channels;
        add("final_layer.linear.weight".into(), &[out, d]);
        add("final_layer.linear.bias".into(), &[out]);
        add("final_layer.adaLN_modulation.1.weight".into(), &[2 * d, d]);
        add("final_layer.adaLN_modulation.1.bias".into(), &[2 * d]);
        list
    }

    /// Number of parameters, buffers included, as the official code counts them.
    pub fn parameters(&self) -> usize {
        self.tensors()
            .iter()
            .filter(|t| !t.name.ends_with("expert_threshold") && !t.name.ends_with("ema_decay"))
            .map(|t| t.shape.iter().product::<usize>())
            .sum()
    }

    /// Parameters that a token meets when `capacity` experts work on it in every MoE layer; router and
    /// capacity predictor count in full.
    pub fn activated_parameters(&self, capacity: f64) -> usize {
        let is_expert = |t: &&TensorSpec| t.name.contains(".mlp.experts.");
        let len = |t: &TensorSpec| t.shape.iter().product::<usize>();
        let experts: usize = self.tensors().iter().filter(is_expert).map(len).sum();
        let share = capacity / self.num_experts.max(1) as f64;
        self.parameters() - experts + (experts as f64 * share).round() as usize
    }
}

#[cfg(test)]
mod tests {
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
        // The authors' own log printed the first; the second is the same model at 256 px (spec §1.4).
        assert_eq!(small_e16(16, 16).parameters(), 140_191_616);
        assert_eq!(small_e16(32, 6).parameters(), 140_265_344);
    }
}
