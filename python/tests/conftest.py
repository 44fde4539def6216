"""Paths and recorded cases."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from diffmoe import Config, Model, Pipeline
from diffmoe.weights import tensors

REPOSITORY = Path(__file__).resolve().parents[2]
FIXTURES = REPOSITORY / "tests" / "fixtures"
ASSETS = REPOSITORY / "assets"
DATA = Path(__file__).resolve().parent / "data"
# Recorded cases of models that take labels.
LABELLED = (
    "dense_flow",
    "tc_flow",
    "ec_flow",
    "diffmoe_flow",
    "diffmoe_swiglu_shared",
    "diffmoe_ddpm",
    "detail_head",
    "dit_moe",
    "dit_moe_flow",
    "dsmoe",
    "promoe",
    "promoe_ec",
    "jit_moe",
)


def error(got, wanted) -> float:
    """Largest difference, relative to the largest number if that is above 1; NaN if any number is NaN."""
    got, wanted = np.asarray(got, np.float64), np.asarray(wanted, np.float64)
    return float(np.abs(got - wanted).max() / max(1.0, np.abs(wanted).max()))


class Case:
    """A recorded case: model, inputs and the results of PyTorch."""

    def __init__(self, name):
        folder = FIXTURES / name
        self.settings = json.loads((folder / "case.json").read_text(encoding="utf-8"))
        self.io = load_file(folder / "io.safetensors")
        self.pipe = Pipeline.from_pretrained(folder)
        self.labels = [self.io[key].astype(int) for key, _ in zip(("y", "style"), self.pipe.config.labels)]


def context_model(**more):
    """A random dense model with two label tables and tokens of the context, its arguments, and its document."""
    params = {"input_size": [4, 6], "in_channels": 3, "patch_size": 2, "depth": 2, "hidden_size": 8, "num_heads": 2}
    params |= {"context_tokens": 2, "context_start": 1, "learn_sigma": False, **more}
    labels = [{"name": name, "tensor": f"{name}.weight", "null": null} for name, null in (("subject", 3), ("style", 2))]
    document = {"kind": "dense", "t_kind": "flow", "space": "pixels", "labels": labels, "params": params}
    config, random = Config.from_dict(document), np.random.default_rng(0)
    weights = {name: random.normal(size=shape).astype(np.float32) for name, shape in tensors(config)}
    x = random.normal(size=(2, 3, 4, 6)).astype(np.float32)
    return Model(config, weights), (x, np.array([0.2, 0.7]), [np.array([0, 3]), np.array([1, 2])]), document


@pytest.fixture(scope="session")
def eurosat():
    return Pipeline.from_pretrained(ASSETS / "eurosat.safetensors")


@pytest.fixture(scope="session")
def tiny():
    """A small text-conditioned pixel-space model."""
    return Pipeline.from_pretrained(FIXTURES / "t2i_tiny" / "model.safetensors")
