//! Runs that blend two labels, on both engines, against models whose label tables hold the blended row.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail like tests")]

mod device;

use device::{device, turn};
use diffmoe::checkpoint::{Checkpoint, TensorOut, random_tensor, write_safetensors};
use diffmoe::gpu::Profile;
use diffmoe::model::Config;
use diffmoe::pipeline::{Pipeline, Settings};

/// The row of each table that holds the blend.
const BLENDED: u32 = 4;

/// Two rows of a table and the share of the second.
type Blend = ([usize; 2], f32);

/// A random model with a label table for each entry. Where the entry is a blend, a row holds it.
fn model(objective: &str, blends: &[Option<Blend>]) -> Checkpoint {
    let name = |table: usize| ["subject", "style"][table];
    let tables: Vec<_> = (0..blends.len())
        .map(|i| format!(r#"{{"name":"{}","tensor":"table_{i}","null":5}}"#, name(i)))
        .collect();
    let text = format!(
        r#"{{"name":"random","kind":"diffmoe","t_kind":"{objective}","labels":[{}],
        "params":{{"input_size":8,"num_classes":5,"patch_size":2,"depth":2,"hidden_size":32,"num_heads":2,
        "MoE_config":{{"num_experts":4,"capacity":1}}}}}}"#,
        tables.join(",")
    );
    let config = Config::from_json(&text).unwrap();
    let tensor = |spec: diffmoe::model::TensorSpec| {
        let mut values = random_tensor(&config, &spec, 3);
        let place = spec.name.strip_prefix("table_").map(|place| place.parse::<usize>().unwrap());
        if let Some(([a, b], share)) = place.and_then(|place| blends[place]) {
            for column in 0..config.hidden_size {
                let value = |row: usize| values[row * config.hidden_size + column];
                let blend = (1.0 - share) * value(a) + share * value(b);
                values[BLENDED as usize * config.hidden_size + column] = blend;
            }
        }
        TensorOut::f32(spec.name, &spec.shape, &values)
    };
    let tensors: Vec<_> = config.tensors().into_iter().map(tensor).collect();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    write_safetensors(&path, &tensors, [("diffmoe".to_owned(), text)]).unwrap();
    Checkpoint::open(&path).unwrap()
}

/// Two images with these rows of each table, and with these rows blended in.
fn draw(pipeline: &Pipeline, rows: &[u32], mix: &[Option<u32>], strength: f32) -> Vec<f32> {
    let config = pipeline.config();
    let mut settings = Settings::builder(config).images(2).seed(7).steps(3).guidance(1.5);
    for (table, row) in config.labels.iter().zip(rows) {
        settings = settings.label(&table.name, *row);
    }
    for (table, row) in config.labels.iter().zip(mix) {
        if let Some(row) = *row {
            settings = settings.mix(&table.name, row).mix_strength(strength);
        }
    }
    pipeline.start(settings.build().unwrap()).unwrap().finish(|_| {}).unwrap().samples
}

fn distance(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

/// `open` puts a model on a device. A blend differs from the model that holds it by at most `tolerance`.
fn check(open: impl Fn(&Checkpoint) -> Pipeline, tolerance: f32) {
    // Flow models have a pass for each branch of guidance, those of DDPM one for both.
    for objective in ["flow", "ddpm"] {
        for blends in [
            &[Some(([1, 3], 0.3))][..],
            &[Some(([0, 2], 0.625)), None],
            &[Some(([1, 5], 0.3)), Some(([2, 0], 0.3))],
        ] {
            let plain = open(&model(objective, &vec![None; blends.len()]));
            let held = open(&model(objective, blends));
            let of = |place: usize| -> Vec<u32> {
                blends.iter().map(|blend| blend.map_or(2, |(rows, _)| rows[place] as u32)).collect()
            };
            let other: Vec<Option<u32>> =
                blends.iter().map(|blend| blend.map(|(rows, _)| rows[1] as u32)).collect();
            let strength = blends.iter().flatten().next().unwrap().1;
            let blended: Vec<u32> =
                blends.iter().map(|blend| if blend.is_some() { BLENDED } else { 2 }).collect();
            let got = draw(&plain, &of(0), &other, strength);
            let want = draw(&held, &blended, &[], 0.0);
            let what = format!("{objective}, {blends:?}");
            assert!(distance(&got, &want) <= tolerance, "{what}: {}", distance(&got, &want));
            // The ends are the labels themselves, to the bit, and the blend is none of them.
            for (strength, place) in [(0.0, 0), (1.0, 1)] {
                let plainly = draw(&plain, &of(place), &[], 0.0);
                let end = draw(&plain, &of(0), &other, strength);
                assert_eq!(bits(&end), bits(&plainly), "{what}, {strength}");
                assert!(distance(&got, &plainly) > 1e-3, "{what}, {strength}");
            }
            // A label blended with itself is that label.
            let itself: Vec<Option<u32>> = of(0).into_iter().map(Some).collect();
            let (same, first) =
                (draw(&plain, &of(0), &itself, 0.3), draw(&plain, &of(0), &[], 0.0));
            assert_eq!(bits(&same), bits(&first), "{what}");
        }
    }
}

#[test]
fn the_processor_blends_label_vectors_to_the_bit() {
    check(|checkpoint| Pipeline::cpu(checkpoint).unwrap(), 0.0);
}

#[test]
fn gpus_blend_label_vectors() {
    let _turn = turn();
    for profile in [Profile::Software, Profile::Gpu] {
        // The compiler of the driver may fuse a product and a sum.
        let gpu = device(profile);
        check(|checkpoint| Pipeline::load(&gpu, checkpoint).unwrap(), 2e-5);
    }
}
