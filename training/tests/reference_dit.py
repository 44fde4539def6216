"""The parts that reference modules of other people's DiT have in common (``make_dit_moe.py``, ``make_dsmoe.py``,
``make_dit_moe_flow.py``, ``make_promoe.py``, ``make_jit.py``): sizes of a small model, attention, modulated blocks, embeddings, and the files of a recorded case."""

import json
import math
import os
import sys

import torch
import torch.nn as nn
import torch.nn.functional as F
from safetensors.torch import save_file

import checkout  # noqa: F401 - finds the package

SIDE, CHANNELS, PATCH, DIM, HEADS, DEPTH, CLASSES = 8, 4, 2, 16, 2, 2, 10


def resize(dim):
    """Changes the hidden size, for smaller recorded cases. Call it before creating a module."""
    global DIM
    DIM = dim


class Network(nn.Module):
    """SwiGLU without biases."""

    def __init__(self, hidden):
        super().__init__()
        self.gate_proj = nn.Linear(DIM, hidden, bias=False)
        self.up_proj = nn.Linear(DIM, hidden, bias=False)
        self.down_proj = nn.Linear(hidden, DIM, bias=False)

    def forward(self, x):
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


def chosen(score, count):
    """1 for the ``count`` largest scores of each token and 0 for the others, and the smallest distance between the two groups."""
    ranked = score.sort(-1, descending=True)
    margin = float((ranked.values[..., count - 1] - ranked.values[..., count]).min())
    return torch.zeros_like(score).scatter(-1, ranked.indices[..., :count], 1.0), margin


class SigmoidExperts(nn.Module):
    """Experts with the router of DSMoE and one shared expert; ``network()`` makes one. A token takes the ``taken`` experts with
    the largest score plus bias; the scores alone, divided by their sum, weigh them."""

    def __init__(self, network, count, taken, scale):
        super().__init__()
        self.taken, self.scale = taken, scale
        self.experts, self.gate = nn.Module(), nn.Module()
        self.experts.blocks = nn.ModuleList(network() for _ in range(count))
        self.gate.weight = nn.Parameter(torch.empty(count, DIM))
        self.gate.register_buffer("e_score_correction_bias", torch.zeros(count))
        self.shared_experts = network()

    def forward(self, x):
        score = F.linear(x, self.gate.weight).sigmoid()
        self.selected, self.margin = chosen(score + self.gate.e_score_correction_bias, self.taken)
        self.moved = int((self.selected != chosen(score, self.taken)[0]).any(-1).sum())
        weight = score * self.selected
        weight = self.scale * weight / (weight.sum(-1, keepdim=True) + 1e-20)
        routed = sum(weight[..., e : e + 1] * expert(x) for e, expert in enumerate(self.experts.blocks))
        return routed + self.shared_experts(x)


class Attention(nn.Module):
    """``turn`` is applied to queries and keys, ``[B, H, T, d]``."""

    def __init__(self, turn):
        super().__init__()
        self.turn = turn
        self.qkv, self.proj = nn.Linear(DIM, 3 * DIM), nn.Linear(DIM, DIM)

    def forward(self, x):
        q, k, v = self.qkv(x).unflatten(-1, (3, HEADS, DIM // HEADS)).permute(2, 0, 3, 1, 4)
        weight = (self.turn(q) @ self.turn(k).transpose(-1, -2) / math.sqrt(DIM // HEADS)).softmax(-1)
        return self.proj((weight @ v).transpose(1, 2).flatten(2))


def normal(x, shift, scale):
    return F.layer_norm(x, (DIM,), eps=1e-6) * (1 + scale[:, None]) + shift[:, None]


class Block(nn.Module):
    """A block whose feed-forward part, a function that makes a module, has the given name."""

    def __init__(self, name, feed_forward, turn=lambda x: x):
        super().__init__()
        self.name, self.attn = name, Attention(turn)
        self.add_module(name, feed_forward())
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(DIM, 6 * DIM))

    def forward(self, x, c):
        part = self.adaLN_modulation(c).chunk(6, 1)
        x = x + part[2][:, None] * self.attn(normal(x, part[0], part[1]))
        return x + part[5][:, None] * getattr(self, self.name)(normal(x, part[3], part[4]))


class Dit(nn.Module):
    """A DiT with the interface of the trainer's samplers: labels as a list, and ``(output, auxiliary loss)`` returned.
    ``block(i)`` makes block i; ``positions`` ``[1, T, D]`` is added to the patches, if there is one."""

    prediction = "velocity"

    def __init__(self, block, positions=None):
        super().__init__()
        self.in_channels = CHANNELS
        self.pos_embed = None if positions is None else nn.Parameter(positions, requires_grad=False)
        self.x_embedder, self.t_embedder, self.y_embedder = nn.Module(), nn.Module(), nn.Module()
        self.x_embedder.proj = nn.Conv2d(CHANNELS, DIM, PATCH, PATCH)
        self.t_embedder.mlp = nn.Sequential(nn.Linear(256, DIM), nn.SiLU(), nn.Linear(DIM, DIM))
        self.y_embedder.embedding_table = nn.Embedding(CLASSES + 1, DIM)
        self.blocks = nn.ModuleList(block(i) for i in range(DEPTH))
        self.final_layer = nn.Module()
        self.final_layer.linear = nn.Linear(DIM, PATCH * PATCH * 2 * CHANNELS)
        self.final_layer.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(DIM, 2 * DIM))

    def forward(self, x, t, labels, *_):
        angle = t.float()[:, None] * torch.exp(-math.log(10000.0) * torch.arange(128) / 128)
        c = self.t_embedder.mlp(torch.cat([angle.cos(), angle.sin()], 1)) + self.y_embedder.embedding_table(labels[0])
        h = self.x_embedder.proj(x).flatten(2).transpose(1, 2)
        if self.pos_embed is not None:
            h = h + self.pos_embed
        for block in self.blocks:
            h = block(h, c)
        h = self.final_layer.linear(normal(h, *self.final_layer.adaLN_modulation(c).chunk(2, 1)))
        side = SIDE // PATCH
        h = h.view(len(x), side, side, PATCH, PATCH, 2 * CHANNELS).permute(0, 5, 1, 3, 2, 4)
        return h.reshape(len(x), 2 * CHANNELS, SIDE, SIDE), 0.0

    def null_labels(self, n, device=None):
        return [torch.full((n,), CLASSES, device=device)]


class Reversed(Dit):
    """A model that sees ``scale·(1 - t)``, t being the time of the trainer's samplers, and predicts noise minus data."""

    scale = 1.0

    def forward(self, x, t, labels, *_):
        return super().forward(x, (1.0 - t) * self.scale, labels)


class Forward(nn.Module):
    """Such a model as ``reference_sampler`` needs it: its velocity leads to the data."""

    def __init__(self, model):
        super().__init__()
        self.model, self.prediction, self.in_channels = model, "velocity", model.in_channels
        self.null_labels = model.null_labels

    def forward(self, x, t, labels, *_):
        out, loss = self.model(x, t, labels)
        return -out, loss


def positions():
    """Fixed sine-cosine position embedding ``[1, T, D]``: the column in the first half of the channels, the row in the second."""
    frequency = 10000.0 ** (-torch.arange(DIM // 4, dtype=torch.float64) / (DIM // 4))
    side = SIDE // PATCH
    wave = torch.arange(side, dtype=torch.float64)[:, None] * frequency
    wave = torch.cat([wave.sin(), wave.cos()], 1)
    return torch.cat([wave.repeat(side, 1), wave.repeat_interleave(side, 0)], 1)[None].float()


def randomise(model):
    """Random weights that keep activations of order one."""
    for w in model.parameters():
        if w.requires_grad:
            nn.init.normal_(w, std=0.1 if w.dim() == 1 else 0.9 * w[0].numel() ** -0.5)


def noise(seed, *shape):
    return torch.randn(*shape, CHANNELS, SIDE, SIDE, generator=torch.Generator().manual_seed(seed))


def observed(model, x, t, y):
    """Input, output and the output of every block of one pass."""
    io = {"x": x, "t": t, "y": y.int()}
    hooks = [block.register_forward_hook(lambda m, a, out, i=i: io.__setitem__(f"blocks.{i}.out", out.clone()))
             for i, block in enumerate(model.blocks)]
    io["out"] = model(x, t, [y])[0]
    for hook in hooks:
        hook.remove()
    return io


def write(folder, state, io, routes, case):
    """Writes a recorded case; the sizes above are added to its settings. ``state`` is the model's state_dict."""
    os.makedirs(folder, exist_ok=True)
    for name, tensors in (("io", io), ("routes", routes), ("model", state)):
        save_file({k: v.contiguous() for k, v in tensors.items()}, os.path.join(folder, f"{name}.safetensors"))
    sizes = {"input_size": SIDE, "num_classes": CLASSES, "patch_size": PATCH, "depth": DEPTH, "hidden_size": DIM,
             "num_heads": HEADS}
    case = {**case, "params": {**sizes, **case["params"]}}
    with open(os.path.join(folder, "case.json"), "w", encoding="utf-8") as f:
        json.dump(case, f, indent=1)
        f.write("\n")
    for name in os.listdir(folder):
        os.chmod(os.path.join(folder, name), 0o644)
