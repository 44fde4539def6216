"""Models of random numbers with a refiner, as documents, tensors and files."""

import json

import numpy as np
from conftest import FIXTURES
from safetensors.numpy import save_file

from diffmoe import Config, weights
from diffmoe.files import TensorFile


def params(patch: int, depth: int, capacity: int, **more) -> dict:
    sizes = {"input_size": [16, 8], "in_channels": 3, "num_classes": 0, "patch_size": patch, "depth": depth, "hidden_size": 32}
    experts = {"num_experts": 4, "capacity": capacity, "interleave": True}
    return {**sizes, "num_heads": 2, "learn_sigma": False, "prediction": "data", "MoE_config": experts, **more}


def document() -> dict:
    """A rectangle in 4×2 patches, refined in 8×4."""
    tables = [("subject", "y_embedder", 5), ("style", "style_embedder", 3)]
    labels = [{"name": name, "tensor": f"{prefix}.embedding_table.weight", "null": null} for name, prefix, null in tables]
    refiner = {"from": 0.5, "params": params(2, 3, 2, detail_head={"channels": 4, "phase": True})}
    head = {"name": "two", "kind": "diffmoe", "t_kind": "flow", "time_scale": 1000.0, "space": "pixels"}
    return head | {"params": params(4, 2, 1), "labels": labels, "refiner": refiner}


def random_tensors(config: Config, seed: int = 4) -> dict[str, np.ndarray]:
    """Small enough that steps do not multiply what rounding changes."""
    random, out = np.random.default_rng(seed), {}
    for name, shape in weights.stored(config):
        scale = 0.3 if len(shape) == 1 or "embed" in name else 0.6 * np.prod(shape[1:]) ** -0.5
        values = scale * random.standard_normal(shape)
        out[name] = (1 / (1 + np.exp(-values)) if "threshold" in name else values).astype(np.float32)
    return out


def write(path, of: dict, tensors=None):
    tensors = random_tensors(Config.from_dict(of)) if tensors is None else tensors
    save_file(tensors, path, {"diffmoe": json.dumps(of)})
    return path


def prompted(**more) -> tuple[dict, dict]:
    """The recorded model that takes prompts, with a refiner: document and tensors. ``more``: entries of the document."""
    source = TensorFile(FIXTURES / "t2i_tiny" / "model.safetensors")
    of = json.loads(source.config_text) | more
    of["refiner"] = {"from": 0.5, "params": of["params"] | {"patch_size": 1, "hidden_size": 24, "depth": 3}}
    return of, random_tensors(Config.from_dict(of)) | {name: source.read(name) for name in source.names()}


def write_with_prompts(path):
    return write(path, *prompted())
