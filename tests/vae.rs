//! Image decoders compared with PyTorch: every layer, on both backends and both kernel families; and slicing, memory
//! and invalid files.

#![allow(clippy::unwrap_used, reason = "tests panic when something is wrong")]

mod device;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use device::{device, limited, turn};
use diffmoe::checkpoint::{TensorOut, write_safetensors};
use diffmoe::engine::{EngineError, Progress};
use diffmoe::gpu::{Gpu, Profile};
use diffmoe::kernels::WeightPrecision;
use diffmoe::vae::{
    CpuDecoder, CpuDecoderModel, Decoder, DecoderFile, DecoderKind, GpuDecoder, GpuDecoderModel,
    LatentPreview,
};
use safetensors::SafeTensors;

/// Float32 with another order of summation.
const TOLERANCE: f32 = 1e-4;

/// Cases of the repository, and those beside it where they are there.
fn cases() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let full = std::env::var_os("DIFFMOE_FIXTURES")
        .map_or_else(|| root.join("../shared/fixtures"), PathBuf::from);
    let mut cases =
        vec![root.join("tests/fixtures/vae_kl_mini"), root.join("tests/fixtures/vae_tiny_mini")];
    cases.extend(
        ["vae_kl", "vae_tiny"].map(|name| full.join(name)).into_iter().filter(|d| d.is_dir()),
    );
    cases
}

fn mini(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

fn open(case: &Path) -> DecoderFile {
    DecoderFile::open(&case.join("model.safetensors")).unwrap()
}

/// A recorded tensor: shape and values.
fn recorded(case: &Path, name: &str) -> Option<(Vec<usize>, Vec<f32>)> {
    let bytes = std::fs::read(case.join("io.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let view = file.tensor(name).ok()?;
    Some((view.shape().to_vec(), bytemuck::pod_collect_to_vec(view.data())))
}

fn on_cpu(file: &DecoderFile, size: [usize; 2]) -> CpuDecoder {
    CpuDecoder::new(Arc::new(CpuDecoderModel::load(file).unwrap()), size)
}

fn on_gpu(file: &DecoderFile, size: [usize; 2], gpu: Arc<Gpu>) -> GpuDecoder {
    let model = GpuDecoderModel::load(gpu, file, WeightPrecision::F32).unwrap();
    GpuDecoder::new(Arc::new(model), size).unwrap()
}

fn largest_difference(got: &[f32], want: &[f32]) -> f32 {
    assert_eq!(got.len(), want.len());
    let difference = |(g, w): (&f32, &f32)| {
        let d = (g - w).abs();
        if d.is_nan() { f32::INFINITY } else { d }
    };
    got.iter().zip(want).map(difference).fold(0.0, f32::max)
}

/// Compares every recorded layer of the first latent, in the order of the computation.
fn check_layers(case: &Path, decoder: &mut dyn Decoder) {
    let (_, z) = recorded(case, "z").unwrap();
    let len = decoder.latent_shape().iter().product();
    let taps = decoder.decode_with_taps(&z[..len]).unwrap();
    let mut compared = 0;
    for (name, shape, values) in &taps {
        let Some((wanted_shape, wanted)) = recorded(case, name) else { continue };
        assert_eq!(wanted_shape[1..], **shape, "{name} in {}", case.display());
        let difference = largest_difference(values, &wanted[..values.len()]);
        assert!(
            difference < TOLERANCE,
            "{name} in {} differs by {difference} on {}",
            case.display(),
            decoder.device()
        );
        compared += 1;
    }
    assert!(compared >= 1, "nothing was recorded in {}", case.display());
    if case.ends_with("vae_kl_mini") {
        assert_eq!(compared, 11, "all modules of the small case: {:?}", names(&taps));
    }
}

fn names(taps: &[(String, Vec<usize>, Vec<f32>)]) -> Vec<&str> {
    taps.iter().map(|(name, ..)| name.as_str()).collect()
}

/// Height and width of a case's latents.
fn size(case: &Path) -> [usize; 2] {
    let (shape, _) = recorded(case, "z").unwrap();
    [shape[2], shape[3]]
}

#[test]
fn every_layer_agrees_with_pytorch_on_the_processor() {
    for case in cases() {
        check_layers(&case, &mut on_cpu(&open(&case), size(&case)));
    }
}

#[test]
fn every_layer_agrees_with_pytorch_on_the_gpu_in_both_variants() {
    let _turn = turn();
    for profile in [Profile::Software, Profile::Gpu] {
        let gpu = device(profile);
        for case in cases() {
            check_layers(&case, &mut on_gpu(&open(&case), size(&case), gpu.clone()));
        }
    }
}

/// A small binding limit cuts feature maps into pieces; nothing changes but rounding.
#[test]
fn feature_maps_over_many_buffers_decode_to_the_same_image() {
    let _turn = turn();
    for name in ["vae_kl_mini", "vae_tiny_mini"] {
        let file = open(&mini(name));
        let size = [6, 8];
        let mut on_cpu = on_cpu(&file, size);
        let pixels = on_cpu.image_shape()[1] * on_cpu.image_shape()[2];
        // Just enough for the weights of a convolution, and for four channels of the image's size: the
        // widest feature maps need two or three buffers.
        let limit = (16 * pixels as u64).max(4 * 9 * 12 * 12);
        let latents = LatentPreview::calibration([4, 6, 8]);
        let want = on_cpu.decode_now(&latents).unwrap();
        for profile in [Profile::Software, Profile::Gpu] {
            let gpu = limited(profile, Some(limit));
            let model = GpuDecoderModel::load(gpu, &file, WeightPrecision::F32).unwrap();
            let model = Arc::new(model);
            let mut cut = GpuDecoder::new(model.clone(), size).unwrap();
            let got = cut.decode_now(&latents).unwrap();
            let difference = largest_difference(&got, &want);
            assert!(difference < TOLERANCE, "{name} on {}: {difference}", cut.device());
            let refused = GpuDecoder::new(model, size.map(|n| 4 * n)).err().unwrap();
            assert!(matches!(refused, EngineError::TooLarge(_)), "{refused}");
            assert!(refused.to_string().ends_with("decode smaller images"), "{refused}");
        }
    }
}

/// More pixels than scores are kept for at a time, and no multiple of four of them.
#[test]
fn attention_in_blocks_of_queries_is_the_same() {
    let _turn = turn();
    let file = open(&mini("vae_kl_mini"));
    let size = [47, 47];
    let latents = LatentPreview::calibration([4, 47, 47]);
    let want = on_cpu(&file, size).decode_now(&latents).unwrap();
    let mut decoder = on_gpu(&file, size, device(Profile::Software));
    let got = decoder.decode_now(&latents).unwrap();
    let difference = largest_difference(&got, &want);
    assert!(difference < 2.0 * TOLERANCE, "{difference}");
}

/// Two latents in slices of one unit are the same bytes as in one go, and as each on its own.
#[test]
fn slices_and_batches_change_no_bit() {
    let _turn = turn();
    for name in ["vae_kl_mini", "vae_tiny_mini"] {
        let case = mini(name);
        let file = open(&case);
        let gpu = device(Profile::Software);
        let decoders: [Box<dyn Decoder>; 2] =
            [Box::new(on_cpu(&file, [3, 5])), Box::new(on_gpu(&file, [3, 5], gpu))];
        for mut decoder in decoders {
            let latents = LatentPreview::calibration([8, 3, 5]);
            let whole = decoder.decode_now(&latents).unwrap();
            let image: usize = decoder.image_shape().iter().product();
            assert_eq!(whole.len(), 2 * image);
            let second = decoder.decode_now(&latents[60..]).unwrap();
            assert!(second == whole[image..], "{}: alone", decoder.device());
            decoder.begin(&latents);
            let (mut sliced, mut calls) = (Vec::new(), 0);
            while sliced.len() < whole.len() {
                calls += 1;
                if decoder.advance(1).unwrap() != Progress::Working {
                    decoder.wait().unwrap();
                }
                while let Some(part) = decoder.take() {
                    sliced.extend(part);
                }
            }
            assert!(calls > 20, "{} has slices: {calls}", decoder.device());
            assert!(sliced == whole, "{}: in slices", decoder.device());
            assert_eq!(decoder.advance(1).unwrap(), Progress::Done);
            assert!(decoder.take().is_none());
        }
    }
}

#[test]
fn f16_weights_stay_near_f32_weights() {
    let _turn = turn();
    let case = mini("vae_kl_mini");
    let file = open(&case);
    let gpu = device(Profile::Software);
    let latents = LatentPreview::calibration([4, 3, 5]);
    let full = on_gpu(&file, [3, 5], gpu.clone()).decode_now(&latents).unwrap();
    let model = GpuDecoderModel::load(gpu, &file, WeightPrecision::F16).unwrap();
    let full_bytes = 2 * model.weight_bytes();
    let half = GpuDecoder::new(Arc::new(model), [3, 5]).unwrap().decode_now(&latents).unwrap();
    // This case's weights are f16 numbers already; only the values' matrix and sums go other ways.
    assert!(largest_difference(&full, &half) < TOLERANCE);
    assert!(full_bytes > 0);
}

#[test]
fn latents_are_scaled_as_the_file_says() {
    let file = open(&mini("vae_kl_mini"));
    assert_eq!((file.kind(), file.latent_channels(), file.factor()), (DecoderKind::Kl, 4, 2));
    assert!((file.scaling() - 0.18215).abs() < 1e-7);
    let (_, z) = recorded(&mini("vae_kl_mini"), "z").unwrap();
    let (_, image) = recorded(&mini("vae_kl_mini"), "image").unwrap();
    let latents: Vec<f32> = z.iter().map(|z| z * 0.18215).collect();
    let got = on_cpu(&file, [3, 5]).decode_now(&latents).unwrap();
    assert!(largest_difference(&got, &image) < TOLERANCE);
}

#[test]
fn a_preview_is_fitted_to_the_decoder_at_hand() {
    for name in ["vae_kl_mini", "vae_tiny_mini"] {
        let mut decoder = on_cpu(&open(&mini(name)), [6, 6]);
        let preview = LatentPreview::of(&mut decoder).unwrap();
        let latent = LatentPreview::calibration([4, 6, 6]);
        let colours = preview.rgb(&latent);
        assert_eq!(colours.len(), 3 * 36);
        // Least squares with a constant explains something of anything, and no more than all.
        assert!((0.0..=1.0).contains(&preview.explained()), "{}", preview.explained());
        let image = decoder.decode_now(&latent).unwrap();
        let mean = |v: &[f32]| v.iter().sum::<f32>() / v.len() as f32;
        for (colours, image) in colours.chunks(36).zip(image.chunks(image.len() / 3)) {
            assert!((mean(colours) - mean(image)).abs() < 1e-3, "{name}: mean colour");
        }
    }
}

/// Writes a case's weights with a change to some; `false` leaves a tensor out.
fn rewritten(
    name: &str,
    change: impl Fn(&mut String, &mut Vec<usize>, &mut Vec<f32>) -> bool,
) -> Result<DecoderFile, EngineError> {
    let folder = tempfile::tempdir().unwrap();
    let bytes = std::fs::read(mini(name).join("model.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let mut tensors = Vec::new();
    for (mut name, view) in file.tensors() {
        let halves: Vec<half::f16> = bytemuck::pod_collect_to_vec(view.data());
        let mut values = halves.iter().map(|h| h.to_f32()).collect();
        let mut shape = view.shape().to_vec();
        if change(&mut name, &mut shape, &mut values) {
            tensors.push(TensorOut::f32(name, &shape, &values));
        }
    }
    let path = folder.path().join("model.safetensors");
    write_safetensors(&path, &tensors, []).unwrap();
    std::fs::copy(mini(name).join("config.json"), folder.path().join("config.json")).unwrap();
    DecoderFile::open(&path)
}

/// What is said about a case's weights after a change; nothing where they are accepted.
fn changed(name: &str, change: impl Fn(&str, &mut Vec<usize>, &mut Vec<f32>) -> bool) -> String {
    let file = rewritten(name, |name, shape, values| change(name, shape, values));
    file.and_then(|file| CpuDecoderModel::load(&file))
        .err()
        .map_or(String::new(), |e| e.to_string())
}

/// Layers of attention were renamed, and some converters store them as convolutions.
#[test]
fn attention_under_its_other_names_is_the_same() {
    let renamed = rewritten("vae_kl_mini", |name, shape, _| {
        for (old, new) in
            [("query", "to_q"), ("key", "to_k"), ("value", "to_v"), ("proj_attn", "to_out.0")]
        {
            if name.contains(&format!("attentions.0.{old}.")) {
                *name = name.replace(old, new);
                if shape.len() == 2 {
                    shape.extend([1, 1]);
                }
            }
        }
        true
    });
    let latents = LatentPreview::calibration([4, 3, 5]);
    let want = on_cpu(&open(&mini("vae_kl_mini")), [3, 5]).decode_now(&latents).unwrap();
    assert!(on_cpu(&renamed.unwrap(), [3, 5]).decode_now(&latents).unwrap() == want);
}

/// A decoder without attention, such as some have; without `post_quant_conv`; without a configuration.
#[test]
fn parts_that_a_file_may_lack_are_left_out() {
    let lean = rewritten("vae_kl_mini", |name, _, _| {
        !name.contains("attentions") && !name.starts_with("post_quant_conv")
    });
    let taps = on_cpu(&lean.unwrap(), [3, 5]).decode_with_taps(&[0.5; 60]).unwrap();
    let found = names(&taps);
    assert_eq!(
        found[..3],
        ["decoder.conv_in", "decoder.mid_block.resnets.0", "decoder.mid_block.resnets.1"]
    );
    let bytes = std::fs::read(mini("vae_tiny_mini").join("model.safetensors")).unwrap();
    let tiny = DecoderFile::from_bytes("tiny", diffmoe::platform::Bytes::new(bytes)).unwrap();
    assert_eq!((tiny.kind(), tiny.factor()), (DecoderKind::Tiny, 4));
    assert!((tiny.scaling() - 1.0).abs() < f32::EPSILON);
    // The norms of this case have 4 groups, which only its configuration tells.
    let bytes = std::fs::read(mini("vae_kl_mini").join("model.safetensors")).unwrap();
    let error = DecoderFile::from_bytes("kl", diffmoe::platform::Bytes::new(bytes)).unwrap_err();
    assert!(error.to_string().contains("12 channels cannot be divided into 32 groups"), "{error}");
}

#[test]
fn files_that_do_not_fit_are_refused_by_name() {
    let kl = "vae_kl_mini";
    assert_eq!(changed(kl, |_, _, _| true), "", "unchanged, it is accepted");
    let up = "decoder.up_blocks.1.resnets.0.conv1";
    let missing = changed(kl, |name, _, _| name != format!("{up}.weight"));
    assert!(missing.contains(&format!("{up}.bias is not part")), "{missing}");
    let missing = changed(kl, |name, _, _| name != "decoder.mid_block.attentions.0.key.bias");
    assert!(missing.contains("attentions.0.key.bias [12] is missing"), "{missing}");
    let reshaped = changed(kl, |name, shape, values| {
        if name == format!("{up}.weight") {
            shape[1] = 6;
            values.truncate(values.len() / 2);
        }
        true
    });
    assert!(reshaped.contains("[8, 6, 3, 3]") && reshaped.contains("[8, 12, 3, 3]"), "{reshaped}");
    let broken = changed(kl, |name, _, values| {
        if name == "decoder.conv_out.weight" {
            values[5] = f32::NAN;
        }
        true
    });
    assert!(broken.contains("decoder.conv_out.weight contains NaN at position 5"), "{broken}");
    let foreign = changed("vae_tiny_mini", |name, _, _| !name.starts_with("decoder.layers.0"));
    assert!(foreign.contains("is not an image decoder"), "{foreign}");
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let model = DecoderFile::open(&root.join("assets/emoji.safetensors")).unwrap_err();
    assert!(model.to_string().contains("is not an image decoder"), "{model}");
}
