"""Training inputs of a refiner: some are noised real images, others are one sampling step of its base model.

A refiner continues samples of a base model that has larger patches.  Trained on noised real images alone, it would take the
base model's errors, such as steps along patch borders, for details of the image.  For some training samples, the base model
therefore takes a guided Euler step from a noised real image at an earlier time s to the refiner's time t.  The target is
still the real image.  (Training on inputs from the sampler reduces exposure bias: Ning et al., arXiv 2301.11706, and Li et
al., arXiv 2305.15583.)"""

import torch

from . import flow
from .exported import load_exported
from .heldout import predicted_data


class Handover:
    """``path``: the exported base model; if the file already has a refiner, only its base model is used.  It takes the step
    for a share ``share`` of the samples whose time is below ``until``, with this guidance scale."""

    def __init__(self, path, tables, share, until, guidance, device="cpu"):
        model, meta = load_exported(path)
        self.model = getattr(model, "base", model).to(device)
        self.model.set_rule("token")  # so that a sample's routing does not depend on the others that take this step
        ours, theirs = [list(table.values) for table in tables], [list(table["values"]) for table in meta["labels"]]
        if ours != theirs:
            raise ValueError(f"{path} has other labels than the run: its refiner needs the same, in the same order")
        self.share, self.until, self.guidance = share, until, guidance

    @torch.no_grad()
    def noised(self, x, noise, t, labels):
        """z_t [B, C, H, W], the refiner's input: t x + (1 - t) noise, or the base model's step to t from z_s, s < t."""
        z = flow.mix(x, noise, t)
        which = ((torch.rand_like(t) < self.share) & (t < self.until)).nonzero().flatten()
        if len(which):
            z[which] = self.step(x[which], noise[which], t[which], [y[which] for y in labels])
        return z

    def step(self, x, noise, t, labels):
        """A guided Euler step to t from z_s, with s from U(0, t)."""
        s = t * torch.rand_like(t)
        z = flow.mix(x, noise, s)
        conditions = [torch.cat(pair) for pair in zip(labels, self.model.null_labels(len(z), z.device))]
        asked, free = self.model(torch.cat([z, z]), torch.cat([s, s]), conditions)[0].chunk(2)
        s, t = s[:, None, None, None], t[:, None, None, None]
        asked, free = (predicted_data(out, z, s, self.model.prediction) for out in (asked, free))
        return torch.lerp(z, free + self.guidance * (asked - free), (t - s) / (1 - s))


def of_run(config, tables, device):
    """The handover that the settings of a run ask for, or None if ``train.refines`` is empty."""
    t = config.train
    if not t.refines:
        return None
    return Handover(t.refines, tables, t.refines_share, t.refines_until, config.sample.guidance, device)
