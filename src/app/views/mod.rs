//! What is drawn from a run: pictures, and where its tokens went. Each file has a pure function from the
//! record to a small view-model, tested against the exported trace, and a function that shows it.

pub mod capacity;
pub mod experts;
pub mod picture;
pub mod token_map;

#[cfg(test)]
pub(super) mod tests {
    use crate::model::{Branch, Config, ForwardRouting, LayerRouting};
    use crate::trace::Trace;

    pub(in crate::app) fn config() -> Config {
        Config::from_json(
            r#"{"name":"test","kind":"diffmoe","t_kind":"flow","params":{"input_size":4,"num_classes":10,
            "patch_size":2,"depth":4,"hidden_size":64,"num_heads":4,
            "MoE_config":{"num_experts":3,"interleave":true}}}"#,
        )
        .unwrap()
    }

    /// Two steps of Heun with guidance: eight passes, two layers, two pictures of four tokens, three experts,
    /// and masks without a pattern.
    pub(in crate::app) fn trace() -> Trace {
        let mut trace = Trace::new(&config(), vec![vec!["a".into(), "b".into()]]);
        let mut state = 12345_u32;
        let mut mask = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state >> 13 & 0b111
        };
        for step in 0..2 {
            for stage in 0..2 {
                for branch in [Branch::Conditional, Branch::Unconditional] {
                    let mut layer = |block| LayerRouting { block, masks: (0..8).map(|_| mask()).collect() };
                    let layers = vec![layer(1), layer(3)];
                    let time = (step + stage) as f32 / 2.0;
                    trace.extend(vec![ForwardRouting { step, time, branch, layers }]);
                }
            }
        }
        trace
    }

    /// The trace as anybody else reads it.
    pub(in crate::app) fn exported() -> serde_json::Value {
        serde_json::from_str(&trace().to_json().unwrap()).unwrap()
    }

    /// The passes of a step in the exported trace.
    pub(in crate::app) fn exported_passes(step: u32, branch: Branch) -> Vec<serde_json::Value> {
        let exported = exported();
        let guided = branch == Branch::Conditional;
        let all = exported["forwards"].as_array().unwrap();
        all.iter().filter(|f| f["step"] == step && f["guided"] == guided).cloned().collect()
    }
}
