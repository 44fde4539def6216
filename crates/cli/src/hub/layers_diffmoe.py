"""Layers and weights of the transformer in ``transformer_diffmoe.py``; written by ``diffmoe convert --layout diffusers``.

Notation: ``B`` samples, ``T`` tokens per sample, ``S = B·T``, ``D`` hidden size, ``E`` experts, ``L`` tokens per prompt."""

import torch
import torch.nn.functional as F

# Follows the name of a tensor with integers in that of its scales.
SCALE = "_scale"
# Numbers of a row that share a scale in int4.
INT4_GROUP = 32
# Score of an expert that is not among those a token may take; less than any cosine.
NOT_ASKED = -2.0


class Weights:
    """Tensors by name. Halves and integers become numbers of the model's type when they are asked for, so that they stay small in
    memory."""

    def __init__(self, model):
        self.tensors, self.dtype = {**dict(model.named_parameters()), **dict(model.named_buffers())}, model.dtype

    def __contains__(self, name):
        return name in self.tensors

    def get(self, name):
        return self[name] if name in self else None

    def __getitem__(self, name):
        stored = self.tensors[name]
        if stored.is_floating_point():
            return stored.to(self.dtype)
        scale = self.tensors[name + SCALE].to(self.dtype)
        if stored.dtype == torch.int8:
            return stored.to(self.dtype) * scale[:, None]
        # Two numbers in a byte, the first in the low half, each from -8 to 7.
        numbers = torch.stack([stored & 15, stored >> 4], dim=-1).flatten(1).to(self.dtype)
        numbers = numbers - 16 * (numbers > 7)
        return numbers * scale.repeat_interleave(INT4_GROUP, dim=1)[:, : numbers.shape[1]]


def buffers(kind, rows, columns):
    """What is stored of a matrix, by what follows its name: integers, and a scale for every row or group."""
    if kind == "int8":
        return ("", torch.zeros(rows, columns, dtype=torch.int8)), (SCALE, torch.zeros(rows))
    if kind == "int4":
        scales = torch.zeros(rows, -(-columns // INT4_GROUP), dtype=torch.float16)
        return ("", torch.zeros(rows, columns // 2, dtype=torch.uint8)), (SCALE, scales)
    raise ValueError(f"unknown format {kind!r} of integers: expected int8 or int4")


def linear(w, name, x):
    return F.linear(x, w[f"{name}.weight"], w.get(f"{name}.bias"))


def heads(x, parts, heads):
    """``[B, T, parts·H·d]`` to ``parts`` of ``[B, H, T, d]``."""
    return x.unflatten(-1, (parts, heads, -1)).permute(2, 0, 3, 1, 4)


def attended(q, k, v, mask=None):
    """The output of attention, ``[B, T, H·d]``; ``mask [B, L]`` says which tokens may be attended to."""
    mask = None if mask is None else mask[:, None, None]
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2)


def rotated(x, grid, still=0):
    """2-D RoPE of queries or keys ``[B, H, still + T, d]``: rows turn the first half of a head, columns the second. The first
    tokens keep their place."""
    quarter = x.shape[-1] // 4
    frequencies = 10000.0 ** (-torch.arange(quarter, dtype=torch.float64, device=x.device) / quarter)
    at = torch.meshgrid(*(torch.arange(n, device=x.device) for n in grid), indexing="ij")
    angles = torch.stack([part.flatten()[:, None] * frequencies for part in at], dim=1)
    angles = F.pad(angles, (0, 0, 0, 0, still, 0))
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    a, b = x.unflatten(-1, (2, 2, quarter)).unbind(-2)
    return torch.stack([a * cos - b * sin, b * cos + a * sin], dim=-2).flatten(-3)


def ffn(w, name, x, silu=False):
    if f"{name}.gate_proj.weight" in w:
        gate = F.silu(linear(w, f"{name}.gate_proj", x))
        return linear(w, f"{name}.down_proj", gate * linear(w, f"{name}.up_proj", x))
    hidden = linear(w, f"{name}.fc1", x)
    return linear(w, f"{name}.fc2", F.silu(hidden) if silu else F.gelu(hidden, approximate="tanh"))


def normal(x):
    return F.layer_norm(x, x.shape[-1:], eps=1e-6)


def rms_normal(x, eps=1e-6):
    """Root-mean-square norm."""
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps)


def modulated(x, shift, scale, rms=False):
    return (rms_normal(x) if rms else normal(x)) * (1 + scale[:, None]) + shift[:, None]


def cosines(x, prototypes, alone):
    """Weights ``[S, E]``: cosines of tokens and the prototypes of experts. The tokens ``alone`` ask the last expert, which has
    no prototype, with weight 1, and no other."""
    gate = F.normalize(x, dim=-1) @ F.normalize(prototypes, dim=-1).T
    if alone is None:
        return gate
    last = torch.where(alone, 1.0, NOT_ASKED)[:, None].to(gate.dtype)
    return torch.cat([gate.masked_fill(alone[:, None], NOT_ASKED), last], dim=1)


def best(gate, count):
    """For each expert, a mask of the ``count`` tokens with the largest gates; ``gate`` and the mask are ``[..., S, E]``."""
    order = gate.argsort(dim=-2, descending=True, stable=True)
    rank = torch.arange(gate.shape[-2], device=gate.device)[:, None].expand_as(order)
    return torch.empty_like(order).scatter_(-2, order, rank) < count
