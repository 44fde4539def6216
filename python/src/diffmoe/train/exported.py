"""Exported weights files: reading them back into a model.

The package reads the file (``diffmoe.weights``); here its tensors become those of PyTorch's modules.  ``export`` writes
such files, and ``diffmoe convert --refiner`` makes one of two."""

import json

import torch

from .. import weights
from ..config import Config
from ..files import REFINER, TensorFile
from ..formats import STATE
from .model import DiT
from .moe import from_official
from .prompts import Reader
from .refined import Refined


def read_description(path):
    return json.loads(TensorFile(path).config_text)


def described_reader(meta):
    """The reader of prompts of a description; None where the model reads no text."""
    text = Config.from_dict(meta).text
    return text and Reader(text.tokenizer, text.max_length, text.special_tokens)


def load_exported(path):
    """(model in eval mode with the file's dequantised weights, description); see ``refined`` for a file with a refiner."""
    config, tensors = weights.load(path)
    of_refiner = {k.removeprefix(REFINER): w for k, w in tensors.items() if k.startswith(REFINER)}
    model = loaded(config, {k: w for k, w in tensors.items() if not k.startswith(REFINER)})
    if config.refiner:
        model = Refined(config, model, loaded(config.refiner, of_refiner))
    return model.eval().requires_grad_(False), read_description(path)


def loaded(config, tensors):
    """One transformer with the tensors of a file."""
    model = DiT(config)
    state = {k: w for k, w in model.state_dict().items() if k.endswith(STATE)}  # files may leave it out
    model.load_state_dict(state | from_official({k: torch.from_numpy(w) for k, w in tensors.items()}))
    return model
