"""Record a small random ProMoE (Wei et al. 2025, arXiv 2510.24711) with token choice, under the tensor names of its published
code:

    python tests/make_promoe.py ../tests/fixtures/promoe

The module below follows the paper and takes names and layouts from the public code; the published checkpoints were not
available.  The first block is dense; the second is an MoE block of GELU experts with a shared expert of another width.  A token
takes the expert whose prototype has the largest cosine to it, and the cosine weighs the expert.  The last expert has no
prototype: it takes the tokens of samples without a label, with weight 1, and they take no other.  The model sees 1000·(1 - t)
and predicts noise minus data, the opposite of the velocity in the trainer's samplers."""

import sys

import torch
import torch.nn as nn
import torch.nn.functional as F

from reference_dit import CLASSES, DIM, Block, Forward, Reversed, chosen, noise, observed, positions, randomise, write

from diffmoe_train import flow

PROTOTYPES, HIDDEN, SHARED, RATIO, SCALE = 3, 12, 24, 2, 1000.0
STEPS, HEUN_STEPS, GUIDANCE, ROUTE_TIME, MARGIN, SEED = 4, 3, 1.5, 0.48, 1e-4, 3


class Gelu(nn.Module):
    """A network whose layers have these names."""

    def __init__(self, hidden, first="up_proj", second="down_proj"):
        super().__init__()
        self.names = first, second
        self.add_module(first, nn.Linear(DIM, hidden))
        self.add_module(second, nn.Linear(hidden, DIM))

    def forward(self, x):
        first, second = (getattr(self, name) for name in self.names)
        return second(F.gelu(first(x), approximate="tanh"))


class Experts(nn.Module):
    unlabelled = None  #: samples without a label ``[B]``

    def __init__(self):
        super().__init__()
        self.cluster_centers = nn.Parameter(torch.empty(PROTOTYPES, DIM))
        self.experts = nn.ModuleList(Gelu(HIDDEN) for _ in range(PROTOTYPES + 1))
        self.shared_expert = Gelu(SHARED)

    def forward(self, x):
        cosine = F.normalize(x, dim=-1) @ F.normalize(self.cluster_centers, dim=-1).T
        nearest, self.margin = chosen(cosine, 1)
        alone = self.unlabelled[:, None, None].to(x.dtype)
        self.selected = torch.cat([nearest * (1 - alone), alone.expand(*x.shape[:-1], 1)], -1)
        self.negative = int(((cosine * nearest).sum(-1)[~self.unlabelled] < 0).sum())
        weight = self.selected * torch.cat([cosine, torch.ones_like(cosine[..., :1])], -1)
        routed = sum(weight[..., e : e + 1] * expert(x) for e, expert in enumerate(self.experts))
        return routed + self.shared_expert(x)


class ProMoe(Reversed):
    scale = SCALE

    def forward(self, x, t, labels, *_):
        self.blocks[1].mlp.unlabelled = labels[0] == CLASSES
        return super().forward(x, t, labels)


def main(folder):
    torch.manual_seed(SEED)
    dense = lambda: Gelu(RATIO * DIM, "fc1", "fc2")
    model = ProMoe(lambda i: Block("mlp", Experts if i % 2 == 1 else dense), positions()).eval()
    randomise(model)
    model.requires_grad_(False)
    experts, margins = model.blocks[1].mlp, []
    experts.register_forward_hook(lambda m, a, out: margins.append(m.margin))
    x, t, y = noise(SEED, 3), torch.tensor([0.1, 0.45, 0.8]), torch.tensor([1, 7, CLASSES])
    routes = {"out": model(x, torch.full((3,), ROUTE_TIME), [y])[0]}
    routes["blocks.1.selected"] = experts.selected.flatten(0, 1).to(torch.uint8)
    negative, taken = experts.negative, experts.selected.flatten(0, 1).sum(0)
    io, velocity = observed(model, x, t, y), Forward(model)
    io["euler_nocfg"] = flow.sample(velocity, x, [y], STEPS, 1.0, "euler")
    io["euler_cfg"] = flow.sample(velocity, x, [y], STEPS, GUIDANCE, "euler")
    io["heun_cfg"] = flow.sample(velocity, x, [y], HEUN_STEPS, GUIDANCE, "heun")
    if min(margins) < MARGIN or negative == 0:
        raise SystemExit(f"smallest margin {min(margins):.1e}, {negative} weights below 0: choose another seed")
    write(folder, model, io, routes, {
        "kind": "tc", "t_kind": "flow", "time_scale": SCALE, "steps": STEPS, "heun_steps": HEUN_STEPS, "cfg_scale": GUIDANCE,
        "null_class": CLASSES,
        "params": {"mlp_ratio": RATIO, "prediction": "reversed",
                   "MoE_config": {"router": "prototypes", "num_experts": PROTOTYPES + 1, "capacity": 1,
                                  "moe_intermediate_size": HIDDEN, "shared_expert_intermediate_size": SHARED,
                                  "interleave": True}}})
    print(f"smallest margin {min(margins):.1e}; {negative} weights below 0; tokens of the experts {taken.tolist()}")


if __name__ == "__main__":
    main(*sys.argv[1:])
