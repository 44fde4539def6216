//! The commands that know image decoders, as a user meets them.

mod command;

use command::{diffmoe, fixture, refused, succeeds};
use diffmoe::checkpoint::{TensorOut, write_safetensors};

/// The arguments that draw three images with few steps.
fn sample<'a>(model: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let three = ["--model", model, "--count", "3", "--scale", "1"];
    command::sample(&[&three[..], more].concat())
}

#[test]
fn latents_that_were_kept_decode_to_the_same_images() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name).display().to_string();
    let (model, vae) =
        (fixture("diffmoe_flow/model.safetensors"), fixture("vae_tiny_mini/model.safetensors"));
    let [first, second, latents] = ["a.png", "b.png", "z.safetensors"].map(path);
    let arguments = sample(&model, &["--vae", &vae, "--out", &first, "--latents", &latents]);
    let [stdout, stderr] = succeeds(&arguments);
    assert!(stdout.contains("z.safetensors"), "{stdout}");
    assert!(stderr.contains("decoding 3 images of 32×32"), "{stderr}");
    succeeds(&["decode", &latents, "--vae", &vae, "--out", &second, "--backend", "cpu"]);
    // The file of `sample` also has the settings.
    let [image, second] = [first, second].map(|path| image::open(path).expect("a PNG"));
    assert!(image == second, "sampled and decoded in one go and in two");
    // Three images in a grid of two by two.
    assert_eq!((image.width(), image.height()), (2 * 32 + 4, 2 * 32 + 4));
    // The same latents mean something else to another decoder.
    let other = fixture("vae_kl_mini/model.safetensors");
    let third = path("c.png");
    succeeds(&["decode", &latents, "--vae", &other, "--out", &third, "--backend", "cpu"]);
    assert!(image::open(third).expect("a PNG") != second);
}

#[test]
fn a_converted_decoder_carries_its_configuration_and_decodes_the_same() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name).display().to_string();
    let latents = path("z.safetensors");
    let numbers: Vec<f32> = (0..2 * 4 * 3 * 3).map(|i| (i as f32 * 0.7).sin()).collect();
    let tensor = TensorOut::f32("latents", &[2, 4, 3, 3], &numbers);
    write_safetensors(std::path::Path::new(&latents), &[tensor], []).expect("a file");
    for case in ["vae_kl_mini", "vae_tiny_mini"] {
        let vae = fixture(&format!("{case}/model.safetensors"));
        // No configuration lies beside the new file.
        let converted = path(&format!("{case}.safetensors"));
        succeeds(&["convert", &vae, "--out", &converted]);
        let [before, after] =
            [(&vae, "before.png"), (&converted, "after.png")].map(|(vae, out)| {
                let out = path(out);
                succeeds(&["decode", &latents, "--vae", vae, "--out", &out, "--backend", "cpu"]);
                std::fs::read(out).expect("an image")
            });
        assert!(before == after, "{case}");
    }
}

#[test]
fn requests_that_cannot_be_met_say_what_to_do() {
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().join("a.png").display().to_string();
    let model = fixture("diffmoe_flow/model.safetensors");
    let vae = fixture("vae_tiny_mini/model.safetensors");
    let io = fixture("vae_tiny_mini/io.safetensors");
    refused(&sample(&model, &["--out", &out]), "--vae FILE");
    refused(&sample("emoji", &["--vae", &vae, "--out", &out]), "remove --vae");
    refused(&sample(&model, &["--vae", "nowhere.safetensors", "--out", &out]), "cannot read");
    refused(&sample(&model, &["--vae", &model, "--out", &out]), "is not an image decoder");
    refused(&["decode", &vae, "--vae", &vae, "--out", &out], "has no tensor \"latents\"");
    let elsewhere = tempfile::tempdir().expect("a folder");
    let latents = elsewhere.path().join("z.safetensors");
    for (shape, why) in
        [([1, 3, 4, 4], "expects [B, 4, height, width]"), ([1, 4, 600, 2], "2048 pixels per side")]
    {
        let tensor = TensorOut::f32("z", &shape, &vec![0.0; shape.iter().product()]);
        write_safetensors(&latents, &[tensor], []).expect("a file");
        let latents = latents.display().to_string();
        refused(&["decode", &latents, "--vae", &vae, "--out", &out], why);
    }
    refused(&["decode", &io, "--vae", &vae, "--out", "a.jpg"], "must end in .png");
    assert_eq!(std::fs::read_dir(folder.path()).expect("a folder").count(), 0, "nothing is left");
}

#[test]
fn recorded_decoders_are_met_by_both_backends_and_described() {
    for (case, passed, kind) in
        [("vae_kl_mini", 11, "AutoencoderKL"), ("vae_tiny_mini", 7, "AutoencoderTiny")]
    {
        for backend in ["cpu", "gpu"] {
            let [stdout, _] = succeeds(&["verify", &fixture(case), "--backend", backend]);
            assert!(stdout.contains(&format!("{passed} passed, 0 failed")), "{stdout}");
        }
        let file = fixture(&format!("{case}/model.safetensors"));
        let [stdout, _] = succeeds(&["info", &file, "--tensors"]);
        assert!(stdout.contains(kind) && stdout.contains("4 channels"), "{stdout}");
        assert!(stdout.contains("decoder."), "{stdout}");
    }
}

/// A bias that is off shows at the layer that it belongs to, and in what follows.
#[test]
fn the_first_failure_is_where_the_error_begins() {
    let folder = tempfile::tempdir().expect("a folder");
    for name in ["case.json", "config.json", "io.safetensors"] {
        let from = fixture(&format!("vae_kl_mini/{name}"));
        std::fs::copy(from, folder.path().join(name)).expect("a copy");
    }
    let bytes = std::fs::read(fixture("vae_kl_mini/model.safetensors")).expect("the fixture");
    let file = safetensors::SafeTensors::deserialize(&bytes).expect("safetensors");
    let mut raw: Vec<_> = file
        .tensors()
        .into_iter()
        .map(|(name, view)| (name, view.shape().to_vec(), view.data().to_vec()))
        .collect();
    for (name, _, data) in &mut raw {
        if name == "decoder.up_blocks.0.upsamplers.0.conv.bias" {
            data[1] ^= 0x40;
        }
    }
    let views = raw.iter().map(|(name, shape, data)| {
        let dtype = safetensors::Dtype::F16;
        let view = safetensors::tensor::TensorView::new(dtype, shape.clone(), data);
        (name, view.expect("a view"))
    });
    let changed = safetensors::serialize(views, None).expect("safetensors");
    std::fs::write(folder.path().join("model.safetensors"), changed).expect("a file");
    let case = folder.path().display().to_string();
    let (code, stdout, _) = diffmoe(&["verify", &case, "--backend", "cpu"]);
    assert_eq!(code, 1, "{stdout}");
    let first = stdout.lines().find(|line| line.starts_with("FAIL")).expect("a failure");
    assert!(first.contains("decoder.up_blocks.0.upsamplers.0 "), "{stdout}");
}
