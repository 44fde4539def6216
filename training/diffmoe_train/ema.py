"""Moving average of the parameters; buffers (the routing thresholds) are copied."""

import copy

import torch


class Ema:
    def __init__(self, model, max_decay=0.9995):
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.max_decay = max_decay
        self.n = 0

    @torch.no_grad()
    def update(self, model):
        decay = min(self.max_decay, (1 + self.n) / (10 + self.n))
        self.n += 1
        pairs = [(a, b) for a, b in zip(self.model.parameters(), model.parameters()) if b.requires_grad]
        torch._foreach_lerp_([a for a, _ in pairs], [b.detach() for _, b in pairs], 1 - decay)
        for a, b in zip(self.model.buffers(), model.buffers()):
            a.copy_(b)
