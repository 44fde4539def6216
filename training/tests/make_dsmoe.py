"""Record a small random DSMoE (Liu et al. 2025, arXiv 2512.01252) under the tensor names of its published code:

    python tests/make_dsmoe.py ../tests/fixtures/dsmoe

The module below follows the paper and takes names and layouts from the public code; the published checkpoints were not
available.  The first block is dense, with SiLU; the second is an MoE block of SwiGLU experts with one shared expert.  Every
expert of a token is scored by a sigmoid.  Tokens choose the K = 2 experts with the largest score plus bias; the scores alone,
divided by their sum, weigh the experts.  Positions enter only as rotations of queries and keys."""

import sys

import torch
import torch.nn as nn
import torch.nn.functional as F

import reference_sampler
from reference_dit import CLASSES, DIM, PATCH, SIDE, Block, Dit, Network, SigmoidExperts, noise, observed, randomise, write

EXPERTS, CHOSEN, HIDDEN, RATIO, SCALE = 6, 2, 24, 2, 2.5
STEPS, HEUN_STEPS, GUIDANCE, ROUTE_TIME, MARGIN, SEED = 4, 3, 1.5, 0.48, 1e-4, 11


def routed():
    return SigmoidExperts(lambda: Network(HIDDEN), EXPERTS, CHOSEN, SCALE)


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


def main(folder):
    torch.manual_seed(SEED)
    model = Dit(lambda i: Block("mlp", routed if i % 2 == 1 else Dense, rotated)).eval()
    randomise(model)
    experts = model.blocks[1].mlp
    nn.init.normal_(experts.gate.e_score_correction_bias, std=0.1)
    model.requires_grad_(False)
    margins = []
    experts.register_forward_hook(lambda m, a, out: margins.append(m.margin))
    x, t, y = noise(SEED, 3), torch.tensor([0.1, 0.45, 0.8]), torch.tensor([1, 7, CLASSES])
    routes = {"out": model(x, torch.full((3,), ROUTE_TIME), [y])[0]}
    routes["blocks.1.selected"] = experts.selected.flatten(0, 1).to(torch.uint8)
    moved = experts.moved
    io = observed(model, x, t, y)
    io["euler_nocfg"] = reference_sampler.flow(model, x, [y], STEPS, 1.0, "euler")
    io["euler_cfg"] = reference_sampler.flow(model, x, [y], STEPS, GUIDANCE, "euler")
    io["heun_cfg"] = reference_sampler.flow(model, x, [y], HEUN_STEPS, GUIDANCE, "heun")
    if min(margins) < MARGIN or moved == 0:
        raise SystemExit(f"smallest margin {min(margins):.1e}, {moved} tokens moved by the bias: choose another seed")
    write(folder, model.state_dict(), io, routes, {
        "kind": "tc", "t_kind": "flow", "steps": STEPS, "heun_steps": HEUN_STEPS, "cfg_scale": GUIDANCE,
        "null_class": CLASSES,
        "params": {"mlp_ratio": RATIO, "mlp_act": "silu", "rope_type": "2d",
                   "MoE_config": {"router": "sigmoid", "num_experts": EXPERTS, "capacity": CHOSEN,
                                  "moe_intermediate_size": HIDDEN, "routed_scaling_factor": SCALE,
                                  "n_group": 2, "topk_group": 2, "interleave": True}}})
    print(f"smallest margin {min(margins):.1e}; the bias moves {moved} of {experts.selected[..., 0].numel()} tokens")


if __name__ == "__main__":
    main(*sys.argv[1:])
