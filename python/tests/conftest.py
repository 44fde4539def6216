"""Paths and recorded cases."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from diffmoe import Pipeline

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


@pytest.fixture(scope="session")
def eurosat():
    return Pipeline.from_pretrained(ASSETS / "eurosat.safetensors")


@pytest.fixture(scope="session")
def tiny():
    """A small text-conditioned pixel-space model."""
    return Pipeline.from_pretrained(FIXTURES / "t2i_tiny" / "model.safetensors")
