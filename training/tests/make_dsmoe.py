"""Record a small random DSMoE (Liu et al. 2025, arXiv 2512.01252) under the tensor names of its published code:

    python tests/make_dsmoe.py ../tests/fixtures/dsmoe

The module below follows the paper and takes names and layouts from the public code; the published checkpoints were not
available.  The first block is dense, with SiLU; the second is an MoE block of SwiGLU experts with one shared expert.  Every
expert of a token is scored by a sigmoid.  Tokens choose the K = 2 experts with the largest score plus bias; the scores alone,
divided by their sum, weigh the experts.  Positions enter only as rotations of queries and keys."""

import json
import math
import os
import sys

import torch
import torch.nn as nn
import torch.nn.functional as F
from safetensors.torch import save_file

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from diffmoe_train import flow  # noqa: E402 - the path comes first

SIDE, CHANNELS, PATCH, DIM, HEADS, DEPTH, EXPERTS, CHOSEN, HIDDEN, RATIO, CLASSES = 8, 4, 2, 16, 2, 2, 6, 2, 24, 2, 10
SCALE, STEPS, HEUN_STEPS, GUIDANCE, ROUTE_TIME, MARGIN, SEED = 2.5, 4, 3, 1.5, 0.48, 1e-4, 11


class Network(nn.Module):
    """SwiGLU without biases."""

    def __init__(self):
        super().__init__()
        self.gate_proj = nn.Linear(DIM, HIDDEN, bias=False)
        self.up_proj = nn.Linear(DIM, HIDDEN, bias=False)
        self.down_proj = nn.Linear(HIDDEN, DIM, bias=False)

    def forward(self, x):
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Gate(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(EXPERTS, DIM))
        self.register_buffer("e_score_correction_bias", torch.zeros(EXPERTS))


class Experts(nn.Module):
    def __init__(self):
        super().__init__()
        self.experts = nn.Module()
        self.experts.blocks = nn.ModuleList(Network() for _ in range(EXPERTS))
        self.gate = Gate()
        self.shared_experts = Network()

    def forward(self, x):
        score = F.linear(x, self.gate.weight).sigmoid()
        ranked = (score + self.gate.e_score_correction_bias).sort(-1, descending=True)
        self.margin = float((ranked.values[..., CHOSEN - 1] - ranked.values[..., CHOSEN]).min())
        self.selected = torch.zeros_like(score).scatter(-1, ranked.indices[..., :CHOSEN], 1.0)
        self.moved = int((self.selected != torch.zeros_like(score).scatter(-1, score.topk(CHOSEN).indices, 1.0)).any(-1).sum())
        weight = score * self.selected
        weight = SCALE * weight / (weight.sum(-1, keepdim=True) + 1e-20)
        routed = sum(weight[..., e : e + 1] * expert(x) for e, expert in enumerate(self.experts.blocks))
        return routed + self.shared_experts(x)


class Dense(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(DIM, RATIO * DIM), nn.Linear(RATIO * DIM, DIM)

    def forward(self, x):
        return self.fc2(F.silu(self.fc1(x)))


def rotated(x):
    """2-D RoPE of ``[B, H, T, d]`` by complex numbers: each half of a head is d/4 of them, turned by the row or the column."""
    side, quarter = SIDE // PATCH, x.shape[-1] // 4
    frequency = 10000.0 ** (-torch.arange(quarter, dtype=torch.float64) / quarter)
    at = torch.arange(side * side, dtype=torch.float64)
    angle = torch.stack([at // side, at % side], 1)[..., None] * frequency
    real, imaginary = x.double().unflatten(-1, (2, 2, quarter)).unbind(-2)
    turned = torch.complex(real, imaginary) * torch.polar(torch.ones_like(angle), angle)
    return torch.stack([turned.real, turned.imag], -2).flatten(-3).to(x.dtype)


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.qkv, self.proj = nn.Linear(DIM, 3 * DIM), nn.Linear(DIM, DIM)

    def forward(self, x):
        q, k, v = self.qkv(x).unflatten(-1, (3, HEADS, DIM // HEADS)).permute(2, 0, 3, 1, 4)
        weight = (rotated(q) @ rotated(k).transpose(-1, -2) / math.sqrt(DIM // HEADS)).softmax(-1)
        return self.proj((weight @ v).transpose(1, 2).flatten(2))


def normal(x, shift, scale):
    return F.layer_norm(x, (DIM,), eps=1e-6) * (1 + scale[:, None]) + shift[:, None]


class Block(nn.Module):
    def __init__(self, is_moe):
        super().__init__()
        self.attn, self.mlp = Attention(), Experts() if is_moe else Dense()
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(DIM, 6 * DIM))

    def forward(self, x, c):
        part = self.adaLN_modulation(c).chunk(6, 1)
        x = x + part[2][:, None] * self.attn(normal(x, part[0], part[1]))
        return x + part[5][:, None] * self.mlp(normal(x, part[3], part[4]))


class DsMoe(nn.Module):
    """DSMoE with the interface that ``flow.sample`` expects."""

    prediction = "velocity"

    def __init__(self):
        super().__init__()
        self.in_channels = CHANNELS
        self.x_embedder, self.t_embedder, self.y_embedder = nn.Module(), nn.Module(), nn.Module()
        self.x_embedder.proj = nn.Conv2d(CHANNELS, DIM, PATCH, PATCH)
        self.t_embedder.mlp = nn.Sequential(nn.Linear(256, DIM), nn.SiLU(), nn.Linear(DIM, DIM))
        self.y_embedder.embedding_table = nn.Embedding(CLASSES + 1, DIM)
        self.blocks = nn.ModuleList(Block(i % 2 == 1) for i in range(DEPTH))
        self.final_layer = nn.Module()
        self.final_layer.linear = nn.Linear(DIM, PATCH * PATCH * 2 * CHANNELS)
        self.final_layer.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(DIM, 2 * DIM))

    def forward(self, x, t, labels, *_):
        angle = t.float()[:, None] * torch.exp(-math.log(10000.0) * torch.arange(128) / 128)
        c = self.t_embedder.mlp(torch.cat([angle.cos(), angle.sin()], 1)) + self.y_embedder.embedding_table(labels[0])
        h = self.x_embedder.proj(x).flatten(2).transpose(1, 2)
        for block in self.blocks:
            h = block(h, c)
        h = self.final_layer.linear(normal(h, *self.final_layer.adaLN_modulation(c).chunk(2, 1)))
        side = SIDE // PATCH
        h = h.view(len(x), side, side, PATCH, PATCH, 2 * CHANNELS).permute(0, 5, 1, 3, 2, 4)
        return h.reshape(len(x), 2 * CHANNELS, SIDE, SIDE), 0.0

    def null_labels(self, n, device=None):
        return [torch.full((n,), CLASSES, device=device)]


def main(folder):
    torch.manual_seed(SEED)
    model = DsMoe().eval()
    for w in model.parameters():
        nn.init.normal_(w, std=0.1 if w.dim() == 1 else 0.9 * w[0].numel() ** -0.5)
    experts = model.blocks[1].mlp
    nn.init.normal_(experts.gate.e_score_correction_bias, std=0.1)
    model.requires_grad_(False)
    margins = []
    experts.register_forward_hook(lambda m, a, out: margins.append(m.margin))
    x = torch.randn(3, CHANNELS, SIDE, SIDE, generator=torch.Generator().manual_seed(SEED))
    t, y = torch.tensor([0.1, 0.45, 0.8]), torch.tensor([1, 7, CLASSES])
    io = {"x": x, "t": t, "y": y.int()}
    for i, block in enumerate(model.blocks):
        block.register_forward_hook(lambda m, a, out, i=i: io.__setitem__(f"blocks.{i}.out", out.clone()))
    routes = {"out": model(x, torch.full((3,), ROUTE_TIME), [y])[0]}
    routes["blocks.1.selected"] = experts.selected.flatten(0, 1).to(torch.uint8)
    moved = experts.moved
    io["out"] = model(x, t, [y])[0]
    kept = dict(io)  # the hooks go on writing into io while sampling
    kept["euler_nocfg"] = flow.sample(model, x, [y], STEPS, 1.0, "euler")
    kept["euler_cfg"] = flow.sample(model, x, [y], STEPS, GUIDANCE, "euler")
    kept["heun_cfg"] = flow.sample(model, x, [y], HEUN_STEPS, GUIDANCE, "heun")
    if min(margins) < MARGIN or moved == 0:
        raise SystemExit(f"smallest margin {min(margins):.1e}, {moved} tokens moved by the bias: choose another seed")
    os.makedirs(folder, exist_ok=True)
    save = lambda name, tensors: save_file({k: v.contiguous() for k, v in tensors.items()}, os.path.join(folder, name))
    save("io.safetensors", kept)
    save("routes.safetensors", routes)
    save("model.safetensors", dict(model.state_dict()))
    case = {"kind": "tc", "t_kind": "flow", "steps": STEPS, "heun_steps": HEUN_STEPS, "cfg_scale": GUIDANCE,
            "null_class": CLASSES,
            "params": {"input_size": SIDE, "num_classes": CLASSES, "patch_size": PATCH, "depth": DEPTH,
                       "hidden_size": DIM, "num_heads": HEADS, "mlp_ratio": RATIO, "mlp_act": "silu", "rope_type": "2d",
                       "MoE_config": {"router": "sigmoid", "num_experts": EXPERTS, "capacity": CHOSEN,
                                      "moe_intermediate_size": HIDDEN, "routed_scaling_factor": SCALE,
                                      "n_group": 2, "topk_group": 2, "interleave": True}}}
    with open(os.path.join(folder, "case.json"), "w", encoding="utf-8") as f:
        json.dump(case, f, indent=1)
        f.write("\n")
    for name in os.listdir(folder):
        os.chmod(os.path.join(folder, name), 0o644)
    print(f"smallest margin {min(margins):.1e}; the bias moves {moved} of {experts.selected[..., 0].numel()} tokens")


if __name__ == "__main__":
    main(*sys.argv[1:])
