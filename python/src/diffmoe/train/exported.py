"""Exported weights files: reading them back into a model.

A file holds the official tensor names (see ``moe.to_official``) and, under the header key ``diffmoe``, a JSON
description of the model.  ``export`` writes such files, and ``diffmoe convert --refiner`` makes one of two: the second
model is described by ``refiner.params``, and the names of its tensors begin with ``refiner.``."""

import json

import torch
from safetensors import safe_open
from tokenizers import Tokenizer

from .model import DiT
from .moe import from_official
from .refined import Refined

REFINER = "refiner."


def decode(stored):
    out = {}
    for key, w in stored.items():
        if key.endswith(".weight.scale"):
            continue
        out[key] = w.float() * stored[key + ".scale"][:, None] if w.dtype == torch.int8 else w.float()
    return out


def read_description(path):
    with safe_open(path, "pt") as f:
        return json.loads(f.metadata()["diffmoe"])


def described_tokenizer(meta):
    """The tokenizer in a description; None where the model reads no text."""
    return Tokenizer.from_str(json.dumps(meta["text"]["tokenizer"])) if "text" in meta else None


def load_exported(path):
    """(model in eval mode with the file's dequantised weights, description); see ``refined`` for a file with a refiner."""
    meta = read_description(path)
    with safe_open(path, "pt") as f:
        stored = {k: f.get_tensor(k) for k in f.keys()}
    model = build(meta, {k: w for k, w in stored.items() if not k.startswith(REFINER)}, path)
    if "refiner" in meta:
        of_refiner = {k.removeprefix(REFINER): w for k, w in stored.items() if k.startswith(REFINER)}
        refiner = build({**meta, "params": meta["refiner"]["params"]}, of_refiner, path)
        model = Refined(model, refiner, meta["refiner"]["from"])
    return model.eval().requires_grad_(False), meta


def finest_patch(meta):
    """Pixels of a side of the smallest patches in a file: the refiner's, if it has one."""
    return meta.get("refiner", meta)["params"]["patch_size"]


def build(meta, stored, path):
    """Builds one transformer from its description and loads its weights."""
    p = meta["params"]
    moe = p.get("MoE_config") or {"num_experts": 0, "capacity": 1, "interleave": True}
    if moe.get("router", "softmax") != "softmax" or p.get("rope_type", "none") != "none" or p.get("mlp_act", "gelu") != "gelu":
        raise ValueError(f"{path}: the trainer has no routers, 2-D RoPE or SiLU networks of DSMoE and ProMoE")
    if p.get("norm_type", "layernorm") != "layernorm" or p.get("swiglu_bias") or p.get("context_tokens"):
        raise ValueError(f"{path}: the trainer has no root-mean-square norms, SwiGLU biases or context tokens of JiT")
    if not p.get("pos_embed", True):
        raise ValueError(f"{path}: the trainer has no models without a position embedding")
    if p.get("qk_norm_eps", 1e-5) != 1e-5 or p.get("prediction") == "reversed":
        raise ValueError(f"{path}: the trainer has no flow models of DiT-MoE and ProMoE, whose time is reversed")
    model = DiT(p["input_size"], p["in_channels"], p["patch_size"], p["depth"], p["hidden_size"], p["num_heads"],
                p["mlp_ratio"], moe["num_experts"], moe["capacity"], moe["interleave"], p["learn_sigma"],
                meta["time_scale"], [(l["tensor"].split(".")[0], l["null"], None) for l in meta["labels"]],
                use_swiglu=p["use_swiglu"], kind=meta["kind"], n_shared_experts=moe.get("n_shared_experts", 0),
                qk_norm=p.get("qk_norm", False), prediction=p.get("prediction", "velocity"), text=encoder_of(meta),
                detail_head=p.get("detail_head", {}).get("channels", 0),
                detail_phase=p.get("detail_head", {}).get("phase", False))
    model.load_state_dict(from_official(decode(stored)))
    return model


def encoder_of(meta):
    keys = ("vocab_size", "max_length", "hidden_size", "depth", "num_heads", "mlp_ratio")
    return {k: meta["text"][k] for k in keys} if "text" in meta else None
