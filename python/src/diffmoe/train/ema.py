"""Moving average of the parameters.  Buffers (the routing thresholds) are copied,
or averaged as in the official code."""

import copy

import torch


class Ema:
    def __init__(self, model, max_decay=0.9995, warmup=True, average_buffers=False):
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.max_decay, self.warmup, self.average_buffers = max_decay, warmup, average_buffers
        self.n = 0

    @torch.no_grad()
    def update(self, model):
        decay = min(self.max_decay, (1 + self.n) / (10 + self.n)) if self.warmup else self.max_decay
        self.n += 1
        pairs = [(a, b) for a, b in zip(self.model.parameters(), model.parameters()) if b.requires_grad]
        torch._foreach_lerp_([a for a, _ in pairs], [b.detach() for _, b in pairs], 1 - decay)
        for a, b in zip(self.model.buffers(), model.buffers()):
            if self.average_buffers:
                a.lerp_(b, 1 - decay)
            else:
                a.copy_(b)
