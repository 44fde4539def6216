"""Record a small random ProMoE (Wei et al. 2025, arXiv 2510.24711) with token choice or expert choice, under the tensor names of
its published code:

    python tests/make_promoe.py ../tests/fixtures/promoe tc
    python tests/make_promoe.py ../tests/fixtures/promoe_ec ec

The module below follows the paper and takes names and layouts from the public code; the published checkpoints were not
available.  The first block is dense; the second is an MoE block of GELU experts with a shared expert of another width.  With
token choice, a token takes the expert whose prototype has the largest cosine to it; with expert choice, an expert takes the tokens
of a sample whose cosines to its prototype are largest, ⌊T/3⌋ of them, and a token may have several experts, or none.  The cosine
weighs the expert.  The last expert has no prototype: it takes the tokens of samples without a label, with weight 1, and they take
no other.  The model sees 1000·(1 - t)
and predicts noise minus data, the opposite of the velocity in the trainer's samplers."""

import sys

import torch
import torch.nn as nn
import torch.nn.functional as F

import reference_dit
import reference_sampler
from reference_dit import CLASSES, Block, Forward, Reversed, chosen, noise, observed, positions, randomise, write

PROTOTYPES, RATIO, SCALE = 3, 2, 1000.0
STEPS, HEUN_STEPS, GUIDANCE, ROUTE_TIME, MARGIN = 4, 3, 1.5, 0.48, 1e-4
# Hidden size, widths of an expert and of the shared one, seed, and labels of the samples.
SIZES = {"tc": (16, 12, 24, 3, (1, 7, CLASSES)), "ec": (8, 8, 12, 6, (7, CLASSES))}


class Gelu(nn.Module):
    """A network whose layers have these names."""

    def __init__(self, hidden, first="up_proj", second="down_proj"):
        super().__init__()
        self.names, dim = (first, second), reference_dit.DIM
        self.add_module(first, nn.Linear(dim, hidden))
        self.add_module(second, nn.Linear(hidden, dim))

    def forward(self, x):
        first, second = (getattr(self, name) for name in self.names)
        return second(F.gelu(first(x), approximate="tanh"))


class Experts(nn.Module):
    unlabelled = None  #: samples without a label ``[B]``

    def __init__(self, kind, hidden, shared):
        super().__init__()
        self.kind = kind
        self.cluster_centers = nn.Parameter(torch.empty(PROTOTYPES, reference_dit.DIM))
        self.experts = nn.ModuleList(Gelu(hidden) for _ in range(PROTOTYPES + 1))
        self.shared_expert = Gelu(shared)

    def forward(self, x):
        cosine = F.normalize(x, dim=-1) @ F.normalize(self.cluster_centers, dim=-1).T
        if self.kind == "tc":
            nearest, self.margin = chosen(cosine, 1)
        else:
            nearest, self.margin = chosen(cosine.transpose(1, 2), int(x.shape[1] / PROTOTYPES))
            nearest = nearest.transpose(1, 2)
        alone = self.unlabelled[:, None, None].to(x.dtype)
        self.selected = torch.cat([nearest * (1 - alone), alone.expand(*x.shape[:-1], 1)], -1)
        self.negative = int((cosine * nearest)[~self.unlabelled].lt(0).sum())
        weight = self.selected * torch.cat([cosine, torch.ones_like(cosine[..., :1])], -1)
        routed = sum(weight[..., e : e + 1] * expert(x) for e, expert in enumerate(self.experts))
        return routed + self.shared_expert(x)


class ProMoe(Reversed):
    scale = SCALE

    def forward(self, x, t, labels, *_):
        self.blocks[1].mlp.unlabelled = labels[0] == CLASSES
        return super().forward(x, t, labels)


def main(folder, kind):
    dim, hidden, shared, seed, labels = SIZES[kind]
    reference_dit.resize(dim)
    torch.manual_seed(seed)
    make = lambda i: Experts(kind, hidden, shared) if i % 2 == 1 else Gelu(RATIO * dim, "fc1", "fc2")
    model = ProMoe(lambda i: Block("mlp", lambda: make(i)), positions()).eval()
    randomise(model)
    model.requires_grad_(False)
    experts, margins = model.blocks[1].mlp, []
    experts.register_forward_hook(lambda m, a, out: margins.append(m.margin))
    y = torch.tensor(labels)
    x, t = noise(seed, len(y)), torch.tensor([0.1, 0.45, 0.8])[-len(y) :]
    model(x, torch.full((len(y),), ROUTE_TIME), [y])
    selected = experts.selected.flatten(0, 1)
    negative, taken, without = experts.negative, selected.sum(0), int((selected.sum(1) == 0).sum())
    io, velocity = observed(model, x, t, y), Forward(model)
    if kind == "tc":
        io["euler_nocfg"] = reference_sampler.flow(velocity, x, [y], STEPS, 1.0, "euler")
    io["euler_cfg"] = reference_sampler.flow(velocity, x, [y], STEPS, GUIDANCE, "euler")
    io["heun_cfg"] = reference_sampler.flow(velocity, x, [y], HEUN_STEPS, GUIDANCE, "heun")
    if min(margins) < MARGIN or negative == 0:
        raise SystemExit(f"smallest margin {min(margins):.1e}, {negative} weights below 0: choose another seed")
    write(folder, model.state_dict(), io, {"blocks.1.selected": selected.to(torch.uint8)}, {
        "kind": kind, "t_kind": "flow", "time_scale": SCALE, "steps": STEPS, "heun_steps": HEUN_STEPS, "cfg_scale": GUIDANCE,
        "null_class": CLASSES,
        "params": {"mlp_ratio": RATIO, "prediction": "reversed",
                   "MoE_config": {"router": "prototypes", "num_experts": PROTOTYPES + 1, "capacity": 1,
                                  "moe_intermediate_size": hidden, "shared_expert_intermediate_size": shared,
                                  "interleave": True}}})
    print(f"smallest margin {min(margins):.1e}; {negative} weights below 0; tokens of the experts {taken.tolist()}, without one {without}")


if __name__ == "__main__":
    main(*sys.argv[1:])
