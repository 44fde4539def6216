"""Writes model files: safetensors with the configuration in the header, and what other programs look for there. The same
model gives the same bytes."""

from __future__ import annotations

import json
import os

import numpy as np
from safetensors.numpy import save

from .config import Config
from .files import CONFIG_KEY

#: Architectures as ``diffmoe convert`` names them. ModelSpec lists none for this family.
ARCHITECTURES = {"dense": "dit", "tc": "dit-moe-token-choice", "ec": "dit-moe-expert-choice", "diffmoe": "diffmoe"}


def header(document: dict) -> dict[str, str]:
    """Header entries of a model: its configuration, the format that PyTorch's readers ask for, and ModelSpec."""
    config, card = Config.from_dict(document), document.get("card") or {}
    entries = {CONFIG_KEY: json.dumps(document, ensure_ascii=False), "format": "pt"}
    more = {
        "sai_model_spec": "1.0.0",
        "architecture": ARCHITECTURES[config.kind],
        "implementation": "diffmoe",
        "title": config.name,
    }
    if config.pixels:
        height, width = config.input_size
        more["resolution"] = f"{width}x{height}"
    licence = card.get("licence") or card.get("license")
    if licence:
        more["license"] = licence
    return entries | {f"modelspec.{key}": value for key, value in more.items()}


def write(path, document: dict, tensors: dict[str, np.ndarray]) -> None:
    """Writes a model's file from its configuration and its tensors, as :func:`diffmoe.formats.encode` gives them."""
    store(path, save({name: np.ascontiguousarray(values) for name, values in tensors.items()}, header(document)))


def store(path, data: bytes) -> None:
    """Writes the bytes of a safetensors file, at once or not at all, with the header's entries in alphabetical order: the
    package writes them in another order each time."""
    end = 8 + int.from_bytes(data[:8], "little")
    entries = json.loads(data[8:end])
    metadata = {"__metadata__": dict(sorted(entries.pop("__metadata__", {}).items()))}
    text = json.dumps(metadata | entries, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    part = f"{path}.tmp"
    with open(part, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text + data[end:])
    os.replace(part, path)
