"""Two models as one: a base with large patches, and its refiner with smaller ones for the steps near the data.

A step belongs to the refiner when it begins at its time or later (``Config.is_refined``).  ``sampler.sample`` says which
step it is in (``begin_step``), because Heun's second evaluation, at the end of a step, is of the same model as the first.
Outside of a step every sample is computed by the model of its own time, as for the error by noise level."""

import torch
import torch.nn as nn


class Refined(nn.Module):
    """``config``: that of the whole, which says from which time on ``refiner`` computes."""

    def __init__(self, config, base, refiner):
        super().__init__()
        self.config, self.base, self.refiner = config, base, refiner
        self.stage = None  # the model of this step
        self.in_channels, self.out_channels, self.prediction = base.in_channels, base.out_channels, base.prediction
        self.grid, self.patch_size = refiner.grid, refiner.patch_size

    @property
    def pos_embed(self):
        return self.refiner.pos_embed

    @property
    def text_encoder(self):
        return self.base.text_encoder

    def null_labels(self, n, device=None):
        return self.base.null_labels(n, device)

    def set_rule(self, rule, gamma=None):
        for m in (self.base, self.refiner):
            m.set_rule(rule, gamma)

    def record(self, on=True):
        """As ``DiT.record``: both models write into the same records, so they are those of the last forward pass."""
        out = self.base.record(on)
        for i, m in self.refiner.moe_layers().items():
            m.record = out[i]
        return out

    def begin_step(self, t):
        """The next passes are of a step that begins at time t; None: of no step."""
        self.stage = None if t is None else self.refiner if self.config.is_refined(t) else self.base

    def forward(self, x, t, labels):
        if self.stage is not None:
            return self.stage(x, t, labels)
        late = torch.tensor([self.config.is_refined(time) for time in t.tolist()], device=t.device)
        if late.all() or not late.any():
            return (self.refiner if late.any() else self.base)(x, t, labels)
        out = x.new_empty(len(x), self.out_channels, *x.shape[2:])
        for model, which in ((self.base, ~late), (self.refiner, late)):
            out[which], aux = model(x[which], t[which], [y[which] for y in labels])
        return out, aux
