"""DDPM, DDIM and the multistep schedulers from a seed: samples and routing recorded with the Rust program."""

import numpy as np
import pytest
import sine
from conftest import DATA, error
from safetensors.numpy import load_file

from diffmoe import Pipeline, schedulers

RUNS = {
    "ddpm": "ddpm",
    "ddim": schedulers.DDIM(guided_channels="all", clip=True, eta=0.5),
    "dpmpp_2m": "dpmpp_2m",
    "unipc": "unipc",
}


@pytest.fixture(scope="module")
def pipe(tmp_path_factory):
    path = tmp_path_factory.mktemp("sine") / "sine.safetensors"
    sine.write(path)
    return Pipeline.from_pretrained(path)


@pytest.mark.parametrize("name", RUNS)
def test_samples_from_a_seed(pipe, name):
    out = pipe(seed=21, num_images=3, num_inference_steps=6, guidance_scale=1.7, scheduler=RUNS[name])
    recorded = load_file(DATA / "sine.safetensors")
    wanted = recorded[name]
    assert wanted.std() > 0.1 and wanted.shape == (3, 3, 6, 4)
    assert error(out.samples, wanted) < 1e-5
    assert np.array_equal(out.trace.masks, recorded[f"{name}.masks"])
    assert out.trace.labels == [["3", "4", "0"]], "random labels are those of the Rust program"
