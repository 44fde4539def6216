"""What a refiner is given in training: partly noised real images, partly what the model before it leaves.

A refiner continues the samples of a model with larger patches.  Trained on noised real images alone, it takes the errors of
that model, such as steps along the borders of its patches, for parts of the image.  So for some samples the model before it
makes the last step: from a noised real image at an earlier time s, with guidance, to the time t of the refiner.  The target
is the real image all the same.  (Inputs of the sampler instead of the forward process: after Ning et al., arXiv 2301.11706,
and Li et al., arXiv 2305.15583.)"""

import torch

from . import flow
from .exported import load_exported


class Handover:
    """``path``: an exported file; of one with a refiner, the model before it.  The step is made for a share ``share`` of the
    samples whose time is below ``until``, with this guidance scale."""

    def __init__(self, path, tables, share, until, guidance, device="cpu"):
        model, meta = load_exported(path)
        self.model = getattr(model, "base", model).to(device)
        self.model.set_rule("token")  # a sample's experts do not depend on how many others make this step
        ours, theirs = [list(table.values) for table in tables], [list(table["values"]) for table in meta["labels"]]
        if ours != theirs:
            raise ValueError(f"{path} has other labels than the run: its refiner needs the same, in the same order")
        self.share, self.until, self.guidance = share, until, guidance

    @torch.no_grad()
    def noised(self, x, noise, t, labels):
        """z_t [B, C, H, W] of the refiner: t x + (1 - t) noise, or the step to t from such a sample at a time in [0, t]."""
        z = flow.mix(x, noise, t)
        which = ((torch.rand_like(t) < self.share) & (t < self.until)).nonzero().flatten()
        if len(which):
            z[which] = self.step(x[which], noise[which], t[which], [y[which] for y in labels])
        return z

    def step(self, x, noise, t, labels):
        s = t * torch.rand_like(t)
        z = flow.mix(x, noise, s)
        n = len(z)
        null = self.model.null_labels(n, z.device)
        both = self.model(torch.cat([z, z]), torch.cat([s, s]), [torch.cat(pair) for pair in zip(labels, null)])[0].float()
        asked, free = both[:n, : z.shape[1]], both[n:, : z.shape[1]]
        out = free + self.guidance * (asked - free)
        velocity = out if self.model.prediction == "velocity" else (out - z) / (1 - s)[:, None, None, None]
        return z + (t - s)[:, None, None, None] * velocity


def of_run(config, tables, device):
    """The handover of a run; None where ``train.refines`` names no file."""
    t = config.train
    if not t.refines:
        return None
    return Handover(t.refines, tables, t.refines_share, t.refines_until, config.sample.guidance, device)
