"""The folder that ``diffmoe convert --layout diffusers`` writes, in diffusers itself, offline.

Needs PyTorch and diffusers, and the command in the environment variable ``DIFFMOE``; ``cargo xtask test`` provides them where
PyTorch is installed.
"""

import os
import subprocess

import numpy as np
import pytest
from conftest import ASSETS, FIXTURES, LABELLED, Case, error
from safetensors.numpy import load_file

from diffmoe import Pipeline, formats

os.environ["HF_HUB_OFFLINE"] = "1"
torch = pytest.importorskip("torch", reason="the folder for diffusers is not tested: PyTorch is not installed")
diffusers = pytest.importorskip("diffusers", reason="the folder for diffusers is not tested: diffusers is not installed")
TOOL = os.environ.get("DIFFMOE")
if TOOL is None:
    pytest.skip("the folder for diffusers is not tested: DIFFMOE does not name the command", allow_module_level=True)


def convert(source, out, *more):
    subprocess.run([TOOL, "convert", source, "-o", out, *more], check=True, capture_output=True)
    return out


def load(folder):
    return diffusers.DiffusionPipeline.from_pretrained(folder, custom_pipeline=folder, trust_remote_code=True)


@pytest.mark.parametrize("name", LABELLED)
def test_the_transformer_gives_the_recorded_outputs(name, tmp_path):
    folder = convert(FIXTURES / name / "model.safetensors", tmp_path / name, "--layout", "diffusers")
    case = Case(name)
    model = load(folder).transformer
    labels = [torch.from_numpy(rows) for rows in case.labels]
    x, t = (torch.from_numpy(case.io[key]).float() for key in ("x", "t"))
    with torch.no_grad():
        out = model(x, t, labels, routing="pool").sample
    assert error(out.numpy(), case.io["out"]) < 1e-4


@pytest.mark.parametrize("name", ["promoe", "promoe_ec"])
def test_the_pipeline_draws_the_same_latents_of_a_model_with_reversed_time(name, tmp_path):
    folder = convert(FIXTURES / name / "model.safetensors", tmp_path / name, "--layout", "diffusers")
    settings = {"num_inference_steps": 4, "guidance_scale": 2.0}
    noise = np.random.default_rng(1).standard_normal((2, 4, 8, 8), np.float32)
    ours = Pipeline.from_pretrained(folder)
    wanted = ours(labels=[3, 5], latents=noise, scheduler="euler", output_type="latent", **settings)
    pipe = load(folder)
    pipe.set_progress_bar_config(disable=True)
    got = pipe(class_labels=[3, 5], latents=torch.from_numpy(noise), output_type="latent", **settings).images
    assert error(got.numpy(), wanted.samples) < 1e-3


@pytest.mark.parametrize("name", ["t2i_tiny", "t2i_bpe"])
def test_prompts_give_the_recorded_outputs(name, tmp_path):
    pytest.importorskip("tokenizers", reason="prompts in the folder for diffusers are not tested: tokenizers is not installed")
    folder = convert(FIXTURES / name / "model.safetensors", tmp_path / name, "--layout", "diffusers")
    case = Case(name)
    pipe = load(folder)
    x, t = (torch.from_numpy(case.io[key]).float() for key in ("x", "t"))
    with torch.no_grad():
        mask, pooled, memory = prompts = pipe._prompts(case.settings["prompts"])
        labels = [torch.from_numpy(rows) for rows in case.labels]
        out = pipe.transformer(x, t, labels, routing="pool", prompts=prompts).sample
    assert error(pooled.numpy(), case.io["text.pooled"]) < 1e-4
    assert error(memory[0][mask].numpy(), case.io["blocks.0.kv"][mask.numpy()]) < 1e-4
    assert error(out.numpy(), case.io["out"]) < 1e-4


def test_the_pipeline_draws_prompts(tmp_path):
    pytest.importorskip("tokenizers", reason="prompts in the folder for diffusers are not tested: tokenizers is not installed")
    folder = convert(FIXTURES / "t2i_tiny" / "model.safetensors", tmp_path / "tiny", "--layout", "diffusers")
    settings = {"num_inference_steps": 4, "guidance_scale": 2.0, "negative_prompt": "blob"}
    noise = np.random.default_rng(1).standard_normal((2, 3, 6, 6), np.float32)
    prompts = ["a red robot, [SEP] flat", ""]
    ours = Pipeline.from_pretrained(folder)
    wanted = ours(prompt=prompts, latents=noise, scheduler="euler", output_type="latent", **settings)
    pipe = load(folder)
    pipe.set_progress_bar_config(disable=True)
    got = pipe(prompt=prompts, latents=torch.from_numpy(noise), output_type="latent", **settings).images
    assert error(got.numpy(), wanted.samples) < 1e-3
    with pytest.raises(ValueError, match="has no labels"):
        pipe(class_labels=1)
    pipe.transformer.save_pretrained(tmp_path / "saved")
    back = Pipeline.from_pretrained(convert(tmp_path / "saved", tmp_path / "back.safetensors"))
    assert back.config.text.vocab_size == 85 and back.tokenizer.encode("a red robot", 11) is not None


def test_the_pipeline_draws_the_same_image(tmp_path):
    folder = convert(ASSETS / "eurosat.safetensors", tmp_path / "eurosat", "--layout", "diffusers")
    ours = Pipeline.from_pretrained(folder)
    settings = {"num_inference_steps": 4, "guidance_scale": 2.0}
    noise = np.random.default_rng(1).standard_normal((2, 3, 64, 64), np.float32)
    wanted = ours(labels=["Forest", "River"], latents=noise, scheduler="euler", output_type="latent", **settings)
    pipe = load(folder)
    pipe.set_progress_bar_config(disable=True)
    given = {"class_labels": ["Forest", "River"], "latents": torch.from_numpy(noise), **settings}
    got = pipe(**given, output_type="latent").images
    assert error(got.numpy(), wanted.samples) < 1e-3
    images = pipe(**given).images
    assert images[0].size == (64, 64)
    with pytest.raises(ValueError, match="unknown class 'Moon'"):
        pipe(class_labels="Moon")


def test_a_shipped_model_and_its_refiner_draw_the_same_image(tmp_path):
    folder = convert(ASSETS / "emoji_256.safetensors", tmp_path / "emoji_256", "--layout", "diffusers")
    ours = Pipeline.from_pretrained(ASSETS / "emoji_256.safetensors")
    settings = {"num_inference_steps": 4, "guidance_scale": 2.0, "output_type": "latent"}
    noise = np.random.default_rng(1).standard_normal((1, 3, 64, 64), np.float32)
    labels = {"subject": ["fox"], "style": ["fluent3d"]}
    wanted = ours(labels=labels, latents=noise, scheduler="euler", **settings)
    pipe = load(folder)
    pipe.set_progress_bar_config(disable=True)
    got = pipe(class_labels=labels, latents=torch.from_numpy(noise), **settings).images
    assert error(got.numpy(), wanted.samples) < 1e-3
    pipe.save_pretrained(tmp_path / "saved")
    back = Pipeline.from_pretrained(convert(tmp_path / "saved", tmp_path / "back.safetensors"))
    for name, values in back.model.weights.items():
        assert np.array_equal(values, ours.model.weights[name]), name
    assert back.config.refiner_from == ours.config.refiner_from


def test_what_diffusers_saves_is_a_model_again(tmp_path):
    source = FIXTURES / "diffmoe_flow" / "model.safetensors"
    folder = convert(source, tmp_path / "folder", "--layout", "diffusers")
    load(folder).transformer.save_pretrained(tmp_path / "saved")
    back = convert(tmp_path / "saved", tmp_path / "back.safetensors")
    first, again = (Pipeline.from_pretrained(path) for path in (folder, back))
    for name, values in again.model.weights.items():
        assert np.array_equal(values, first.model.weights[name]), name


@pytest.mark.parametrize("dtype", ["int8", "int4"])
def test_the_package_writes_the_integers_of_the_rust_program(dtype, tmp_path):
    source = FIXTURES / "diffmoe_flow" / "model.safetensors"
    theirs = load_file(convert(source, tmp_path / "theirs.safetensors", "--dtype", dtype))
    ours = formats.encode(load_file(source), dtype)
    integers = [name for name, values in ours.items() if values.dtype in (np.int8, np.uint8)]
    assert integers
    for name in integers:
        assert np.array_equal(ours[name], theirs[name]), name
        np.testing.assert_allclose(ours[name + ".scale"], theirs[name + ".scale"], rtol=1e-7)


@pytest.mark.parametrize("dtype", ["int8", "int4", "f16"])
def test_a_quantised_model_draws_the_same_and_keeps_its_bits(dtype, tmp_path):
    small = tmp_path / "small.safetensors"
    convert(FIXTURES / "diffmoe_flow" / "model.safetensors", small, "--dtype", dtype)
    # Parts of a megabyte, so that the loader reads an index.
    folder = convert(small, tmp_path / "folder", "--layout", "diffusers", "--part-mb", "1")
    ours = Pipeline.from_pretrained(small)
    for name, values in Pipeline.from_pretrained(folder).model.weights.items():
        assert np.array_equal(values, ours.model.weights[name]), name
    pipe = load(folder)
    dtypes = {values.dtype for values in pipe.transformer.state_dict().values()}
    integers = {"int8": {torch.int8}, "int4": {torch.uint8}, "f16": set()}[dtype]
    # Halves become f32 where the package accelerate is installed.
    assert dtypes - {torch.float16} == {torch.float32} | integers
    pipe.set_progress_bar_config(disable=True)
    noise = np.random.default_rng(1).standard_normal((2, 4, *ours.config.input_size), np.float32)
    settings = {"num_inference_steps": 3, "guidance_scale": 2.0, "output_type": "latent"}
    wanted = ours(labels=[3, 5], latents=noise, scheduler="euler", **settings)
    got = pipe(class_labels=[3, 5], latents=torch.from_numpy(noise), **settings).images
    assert error(got.numpy(), wanted.samples) < 1e-3
    pipe.transformer.save_pretrained(tmp_path / "saved")
    if dtype != "f16":
        back = convert(tmp_path / "saved", tmp_path / "back.safetensors")
        mine, again = (load_file(path) for path in (small, back))
        assert {name for name in mine if not name.endswith(".ema_decay")} == again.keys()
        for name, values in again.items():
            assert values.dtype == mine[name].dtype and np.array_equal(values, mine[name]), name


def test_ddpm_models_draw(tmp_path):
    folder = convert(FIXTURES / "diffmoe_ddpm" / "model.safetensors", tmp_path / "ddpm", "--layout", "diffusers")
    pipe = load(folder)
    pipe.set_progress_bar_config(disable=True)
    latents = pipe(num_images=2, num_inference_steps=5, generator=torch.Generator().manual_seed(1)).images
    assert len(latents) == 2 and torch.isfinite(latents).all()
