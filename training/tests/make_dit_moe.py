"""Record a small random DiT-MoE (Fei et al. 2024, arXiv 2407.11633) under the tensor names of its published checkpoints:

    python tests/make_dit_moe.py ../tests/fixtures/dit_moe

The module below follows the paper and takes names and layouts from the public code; the published checkpoints were not
available.  Every block is an MoE block.  Tokens choose the K = 2 experts with the largest softmax scores, which are not
renormalised.  The two shared experts are one SwiGLU network of width 2D."""

import json
import math
import os
import sys

import torch
import torch.nn as nn
import torch.nn.functional as F
from safetensors.torch import save_file

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from diffmoe_train import ddpm  # noqa: E402 - the path comes first

SIDE, CHANNELS, PATCH, DIM, HEADS, DEPTH, EXPERTS, CHOSEN, SHARED, RATIO, CLASSES = 8, 4, 2, 16, 2, 2, 4, 2, 2, 4, 10
STEPS, GUIDANCE, ROUTE_TIME, MARGIN, SEED = 5, 1.5, 480.0, 1e-4, 6


class Network(nn.Module):
    """SwiGLU without biases."""

    def __init__(self, hidden):
        super().__init__()
        self.gate_proj = nn.Linear(DIM, hidden, bias=False)
        self.up_proj = nn.Linear(DIM, hidden, bias=False)
        self.down_proj = nn.Linear(hidden, DIM, bias=False)

    def forward(self, x):
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Experts(nn.Module):
    def __init__(self):
        super().__init__()
        self.experts = nn.ModuleList(Network(RATIO * DIM) for _ in range(EXPERTS))
        self.gate = nn.Linear(DIM, EXPERTS, bias=False)
        self.shared_experts = Network(SHARED * DIM)

    def forward(self, x):
        score = self.gate(x).softmax(-1)
        ranked = score.sort(-1, descending=True)
        self.margin = float((ranked.values[..., CHOSEN - 1] - ranked.values[..., CHOSEN]).min())
        self.selected = torch.zeros_like(score).scatter(-1, ranked.indices[..., :CHOSEN], 1.0)
        weight = score * self.selected
        routed = sum(weight[..., e : e + 1] * expert(x) for e, expert in enumerate(self.experts))
        return routed + self.shared_experts(x)


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.qkv, self.proj = nn.Linear(DIM, 3 * DIM), nn.Linear(DIM, DIM)

    def forward(self, x):
        q, k, v = self.qkv(x).unflatten(-1, (3, HEADS, DIM // HEADS)).permute(2, 0, 3, 1, 4)
        weight = (q @ k.transpose(-1, -2) / math.sqrt(DIM // HEADS)).softmax(-1)
        return self.proj((weight @ v).transpose(1, 2).flatten(2))


def normal(x, shift, scale):
    return F.layer_norm(x, (DIM,), eps=1e-6) * (1 + scale[:, None]) + shift[:, None]


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.attn, self.moe = Attention(), Experts()
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(DIM, 6 * DIM))

    def forward(self, x, c):
        part = self.adaLN_modulation(c).chunk(6, 1)
        x = x + part[2][:, None] * self.attn(normal(x, part[0], part[1]))
        return x + part[5][:, None] * self.moe(normal(x, part[3], part[4]))


def positions():
    """Fixed sine-cosine position embedding ``[1, T, D]``: the column in the first half of the channels, the row in the second."""
    frequency = 10000.0 ** (-torch.arange(DIM // 4, dtype=torch.float64) / (DIM // 4))
    side = SIDE // PATCH
    wave = torch.arange(side, dtype=torch.float64)[:, None] * frequency
    wave = torch.cat([wave.sin(), wave.cos()], 1)
    return torch.cat([wave.repeat(side, 1), wave.repeat_interleave(side, 0)], 1)[None].float()


class DitMoe(nn.Module):
    """DiT-MoE with the interface that ``ddpm.sample`` expects: labels as a list, and ``(output, auxiliary loss)`` returned."""

    def __init__(self):
        super().__init__()
        self.in_channels = CHANNELS
        self.pos_embed = nn.Parameter(positions(), requires_grad=False)
        self.x_embedder, self.t_embedder, self.y_embedder = nn.Module(), nn.Module(), nn.Module()
        self.x_embedder.proj = nn.Conv2d(CHANNELS, DIM, PATCH, PATCH)
        self.t_embedder.mlp = nn.Sequential(nn.Linear(256, DIM), nn.SiLU(), nn.Linear(DIM, DIM))
        self.y_embedder.embedding_table = nn.Embedding(CLASSES + 1, DIM)
        self.blocks = nn.ModuleList(Block() for _ in range(DEPTH))
        self.final_layer = nn.Module()
        self.final_layer.linear = nn.Linear(DIM, PATCH * PATCH * 2 * CHANNELS)
        self.final_layer.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(DIM, 2 * DIM))

    def forward(self, x, t, labels):
        angle = t.float()[:, None] * torch.exp(-math.log(10000.0) * torch.arange(128) / 128)
        c = self.t_embedder.mlp(torch.cat([angle.cos(), angle.sin()], 1)) + self.y_embedder.embedding_table(labels[0])
        h = self.x_embedder.proj(x).flatten(2).transpose(1, 2) + self.pos_embed
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
    model = DitMoe().eval()
    for name, w in model.named_parameters():
        if w.requires_grad:
            nn.init.normal_(w, std=0.1 if w.dim() == 1 else 0.9 * w[0].numel() ** -0.5)
    model.requires_grad_(False)
    margins = []
    for block in model.blocks:
        block.moe.register_forward_hook(lambda m, a, out: margins.append(m.margin))
    x = torch.randn(3, CHANNELS, SIDE, SIDE, generator=torch.Generator().manual_seed(SEED))
    t, y = torch.tensor([50.0, 480.0, 910.0]), torch.tensor([1, 7, CLASSES])
    io = {"x": x, "t": t, "y": y.int()}
    for i, block in enumerate(model.blocks):
        block.register_forward_hook(lambda m, a, out, i=i: io.__setitem__(f"blocks.{i}.out", out.clone()))
    routes = {"out": model(x, torch.full((3,), ROUTE_TIME), [y])[0]}
    for i, block in enumerate(model.blocks):
        routes[f"blocks.{i}.selected"] = block.moe.selected.flatten(0, 1).to(torch.uint8)
    io["out"] = model(x, t, [y])[0]
    kept = dict(io)  # the hooks go on writing into io while sampling
    noise = torch.randn(STEPS, 3, CHANNELS, SIDE, SIDE, generator=torch.Generator().manual_seed(7))
    kept["ddpm_nocfg_noise"] = noise
    kept["ddpm_cfg_noise"] = noise.clone()  # safetensors refuses shared memory
    kept["ddpm_nocfg"] = ddpm.sample(model, x, [y], STEPS, noises=noise)
    kept["ddpm_cfg"] = ddpm.sample(model, x, [y], STEPS, GUIDANCE, 3, noises=noise)
    kept["ddim_nocfg"] = ddpm.sample(model, x, [y], STEPS, ddim=True)
    if min(margins) < MARGIN:
        raise SystemExit(f"a routing decision has a margin of {min(margins):.1e}: choose another seed")
    os.makedirs(folder, exist_ok=True)
    save = lambda name, tensors: save_file({k: v.contiguous() for k, v in tensors.items()}, os.path.join(folder, name))
    save("io.safetensors", kept)
    save("routes.safetensors", routes)
    save("model.safetensors", dict(model.state_dict()))
    case = {"kind": "tc", "t_kind": "ddpm", "steps": STEPS, "heun_steps": 0, "cfg_scale": GUIDANCE, "null_class": CLASSES,
            "params": {"input_size": SIDE, "num_classes": CLASSES, "patch_size": PATCH, "depth": DEPTH,
                       "hidden_size": DIM, "num_heads": HEADS, "mlp_ratio": RATIO, "use_swiglu": True,
                       "MoE_config": {"num_experts": EXPERTS, "capacity": CHOSEN, "n_shared_experts": SHARED,
                                      "interleave": False}}}
    with open(os.path.join(folder, "case.json"), "w", encoding="utf-8") as f:
        json.dump(case, f, indent=1)
        f.write("\n")
    for name in os.listdir(folder):
        os.chmod(os.path.join(folder, name), 0o644)
    print(f"smallest margin {min(margins):.1e}")


if __name__ == "__main__":
    main(*sys.argv[1:])
