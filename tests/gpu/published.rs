//! DiT-MoE, DSMoE, JiTMoE and ProMoE under the tensor names of their checkpoints: the experts of every token, on both engines.

use std::sync::Arc;

use diffmoe::engine::{CpuEngine, CpuModel, Engine};
use diffmoe::gpu::Profile;
use diffmoe::scheduler::Latent;
use safetensors::SafeTensors;

use crate::case::{COND, Case, folder, forward};
use crate::device::{device, turn};

#[test]
fn every_token_takes_the_recorded_experts() {
    takes_the_recorded_experts("dit_moe", 480.0, [2, 2]);
    takes_the_recorded_experts("dit_moe_flow", 0.48, [2, 2]);
    takes_the_recorded_experts("dsmoe", 0.48, [1, 2]);
    takes_the_recorded_experts("jit_moe", 0.48, [2, 2]);
    takes_the_recorded_experts("promoe", 0.48, [1, 1]);
    // Its tokens have several experts, or none.
    takes_the_recorded_experts("promoe_ec", 0.48, [1, 0]);
}

/// At the time of the recorded pass, the same for all samples, in as many MoE layers; so many of every token, unless 0.
fn takes_the_recorded_experts(name: &str, time: f32, [layers, count]: [usize; 2]) {
    let _turn = turn();
    let case = Case::open(name);
    let bytes = std::fs::read(folder(name).join("routes.safetensors")).unwrap();
    let routes = SafeTensors::deserialize(&bytes).unwrap();
    let experts = case.checkpoint.config().num_experts;
    let check = |engine: &mut dyn Engine| {
        engine.start(&case.run()).unwrap();
        engine.finish_step(&[forward(Latent::Sample, 0, time, COND)]).unwrap();
        let snapshot = engine.take_snapshot().unwrap();
        let found = &snapshot.routing[0].layers;
        assert_eq!(found.len(), layers);
        for layer in found {
            let name = format!("blocks.{}.selected", layer.block);
            let wanted = routes.tensor(&name).unwrap();
            let mask = |row: &[u8]| row.iter().rev().fold(0, |m, &bit| m << 1 | u64::from(bit));
            let wanted: Vec<u64> = wanted.data().chunks(experts).map(mask).collect();
            assert!(count == 0 || wanted.iter().all(|mask| mask.count_ones() == count as u32));
            assert_eq!(layer.masks, wanted, "{name}, {}", engine.device());
        }
    };
    let on_cpu = Arc::new(CpuModel::load(&case.checkpoint).unwrap());
    check(&mut CpuEngine::new(on_cpu, case.labels()[0].len()));
    for profile in [Profile::Software, Profile::Gpu] {
        check(&mut case.engine(&device(profile)));
    }
}
