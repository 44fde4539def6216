"""Reads model files: safetensors, single or sharded, in every precision that ``diffmoe convert`` writes
(:mod:`diffmoe.formats`). All tensors are returned as float32.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open

from .errors import ModelError
from .formats import INT4_GROUP, SCALE, from_int4, from_int8

CONFIG_KEY = "diffmoe"
#: What the names of scales end with in the layout of diffusers, where a parameter has no parts.
MODULE_SCALE = "_scale"
#: Where the weights are in a folder: as model hubs have one model, or as diffusers has a pipeline or its transformer.
NAMES = ("model", "transformer/diffusion_pytorch_model", "diffusion_pytorch_model")
#: The folders of a model and of its refiner in a pipeline of diffusers.
TRANSFORMERS = ("transformer", "transformer_2")
#: What the names of a refiner's tensors begin with.
REFINER = "refiner."
FLOATS = ("F64", "F32", "F16", "BF16")


def find(name) -> Path:
    """Resolves a path, folder or model name; see ``Pipeline.from_pretrained``."""
    path = Path(name).expanduser()
    if path.is_file():
        return path
    if path.is_dir():
        names = [path / f"{name}.safetensors{end}" for name in NAMES for end in (".index.json", "")]
        here = [file for file in names if file.is_file()] or sorted(path.glob("*.safetensors"))
        if len(here) == 0:
            raise ModelError(f"{path} contains no safetensors file")
        if len(here) > 1 and here[0] not in names:
            raise ModelError(f"{path} contains several models ({', '.join(p.name for p in here)}); give the path of one")
        return here[0]
    folders = [Path(f) for f in os.environ.get("DIFFMOE_MODELS", "").split(os.pathsep) if f]
    folders += [folder / "assets" for folder in (Path.cwd(), *Path.cwd().parents)]
    if path.name == str(name) and not path.suffix:
        for folder in folders:
            if (folder / f"{name}.safetensors").is_file():
                return folder / f"{name}.safetensors"
    raise ModelError(
        f"no model file {str(name)!r}; give the path of a safetensors file, or the name of a model in one of the folders "
        "listed in the environment variable DIFFMOE_MODELS"
    )


def official_name(name: str, is_promoe: bool = False) -> str:
    """The official name of a tensor. DiT-MoE has ``blocks.N.moe`` for ``blocks.N.mlp``, and its larger models ``Wqkv`` and
    ``out_proj`` for ``qkv`` and ``proj``; DSMoE has ``experts.blocks`` for ``experts``; ProMoE ``shared_expert`` for
    ``shared_experts``, and ``up_proj`` and ``down_proj`` for the layers of networks with two."""
    name = re.sub(r"^(blocks\.[^.]+)\.moe\.", r"\1.mlp.", name)
    name = re.sub(r"^(blocks\.[^.]+\.attn\.)Wqkv\.", r"\1qkv.", name)
    name = re.sub(r"^(blocks\.[^.]+\.attn\.)out_proj\.", r"\1proj.", name)
    name = re.sub(r"^(blocks\.[^.]+\.mlp\.experts)\.blocks\.", r"\1.", name)
    name = re.sub(r"^(blocks\.[^.]+\.mlp\.)shared_expert\.", r"\1shared_experts.", name)
    if is_promoe and re.match(r"blocks\.[^.]+\.mlp\.", name):
        name = name.replace(".up_proj.", ".fc1.").replace(".down_proj.", ".fc2.")
    return name


class TensorFile:
    """Tensors of one or more safetensors files, and the model configuration."""

    def __init__(self, path):
        self.path = Path(path)
        self.config_text = None
        self._where: dict[str, object] = {}
        self._stored: dict[str, tuple[Path, str]] = {}  # file and name in it
        self._read_names(_parts(self.path))
        folder = self.path.absolute().parent
        refiner = folder.parent / TRANSFORMERS[1]
        if folder.name == TRANSFORMERS[0] and refiner.is_dir():
            self._read_names(_parts(find(refiner)), REFINER)
        self._rename_scales()
        for beside in ("config.json", "case.json"):
            file = self.path.parent / beside
            if self.config_text is None and file.is_file():
                self.config_text = file.read_text(encoding="utf-8")
        if self.config_text is None:
            raise ModelError(
                f"{self.path} has no model description: it needs a {CONFIG_KEY!r} entry in its header or a config.json in the "
                "same folder; make a model file with `diffmoe convert`"
            )

    def _read_names(self, parts: list[Path], before: str = ""):
        """Takes the tensors of files, whose names get something before them."""
        opened = [(part, _open(part)) for part in parts]
        is_promoe = any(name.endswith(".mlp.cluster_centers") for _, file in opened for name in file.keys())
        for part, file in opened:
            if not before:
                self.config_text = self.config_text or (file.metadata() or {}).get(CONFIG_KEY)
            for name in file.keys():
                official = before + official_name(name, is_promoe)
                if official in self._where and self._stored[official][1] != name:
                    raise ModelError(f"{part} has {official} under two names; remove one of them")
                self._where[official], self._stored[official] = file, (part, name)

    def _rename_scales(self):
        """Renames the scales of quantised matrices in the diffusers layout to the names used everywhere else."""
        for name in [name for name in self._where if name.endswith(MODULE_SCALE)]:
            of = name[: -len(MODULE_SCALE)]
            if of in self._where and self._type(of) in ("I8", "U8"):
                if of + SCALE in self._where:
                    raise ModelError(f"{self.path} has {of}{SCALE} under two names; remove one of them")
                for table in (self._where, self._stored):
                    table[of + SCALE] = table.pop(name)

    def names(self) -> list[str]:
        """Names of all tensors, without the scales of quantised ones."""
        return [name for name in self._where if not self._is_scale(name)]

    def _is_scale(self, name: str) -> bool:
        return name.endswith(SCALE) and name[: -len(SCALE)] in self._where and self._type(name[: -len(SCALE)]) in ("I8", "U8")

    def _slice(self, name: str):
        return self._where[name].get_slice(self._stored[name][1])

    def _tensor(self, name: str) -> np.ndarray:
        return self._where[name].get_tensor(self._stored[name][1])

    def _type(self, name: str) -> str:
        return self._slice(name).get_dtype()

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor after dequantisation."""
        shape = tuple(self._slice(name).get_shape())
        return (*shape[:-1], 2 * shape[-1]) if self._type(name) == "U8" else shape

    def read(self, name: str) -> np.ndarray:
        """A tensor as float32."""
        kind = self._type(name)
        if kind in FLOATS:
            values = self._bfloat16(name) if kind == "BF16" else self._tensor(name)
            values = values.astype(np.float32)
        elif kind in ("I8", "U8") and name + SCALE in self._where:
            scale = self._tensor(name + SCALE).astype(np.float32)
            stored = self._tensor(name)
            rows = stored.shape[0] if stored.ndim == 2 else 0
            needed = (rows,) if kind == "I8" else (rows, -(-2 * stored.shape[-1] // INT4_GROUP))
            if stored.ndim != 2 or scale.shape != needed:
                raise ModelError(f"{self.path}: {name}{SCALE} has shape {scale.shape}, expected {needed}")
            values = from_int8(stored, scale) if kind == "I8" else from_int4(stored, scale)
        else:
            raise ModelError(f"{self.path}: {name} is stored as {kind}; expected floats, or I8 or U8 with {name}{SCALE}")
        if not np.isfinite(values).all():
            raise ModelError(f"{self.path}: {name} contains NaN or infinite values; download or export the file again")
        return np.ascontiguousarray(values, np.float32)

    def _bfloat16(self, name: str) -> np.ndarray:
        """NumPy has no bfloat16, so the bytes are read directly and widened."""
        part, stored = self._stored[name]
        with open(part, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            entry = json.loads(file.read(length))[stored]
            begin, end = entry["data_offsets"]
            file.seek(8 + length + begin)
            halves = np.frombuffer(file.read(end - begin), "<u2")
        return (halves.astype(np.uint32) << 16).view(np.float32).reshape(entry["shape"])


def _parts(path: Path) -> list[Path]:
    """The files of a model: the file itself, or the parts that an index lists."""
    if path.suffix != ".json":
        return [path]
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
        names = sorted(set(index["weight_map"].values()))
    except (ValueError, KeyError, AttributeError) as error:
        raise ModelError(f"{path} is not a safetensors index ({error})") from None
    for name in names:
        if Path(name).name != name:
            raise ModelError(f"{path} refers to {name!r}; shards must be in the same folder as their index")
        if not (path.parent / name).is_file():
            raise ModelError(f"{path} refers to {name}, which is missing; download it too")
    return [path.parent / name for name in names]


def _open(part: Path):
    try:
        return safe_open(str(part), framework="np")
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{part} is not a complete safetensors file ({error}); download it again") from None
