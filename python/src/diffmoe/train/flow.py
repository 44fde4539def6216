"""Rectified flow.  t = 0 is noise, t = 1 is data: z_t = t x + (1 - t) noise.

A model predicts the velocity x - noise, as in the paper, or the data x, from which
the velocity follows: (x - z_t) / (1 - t).  The noise of a patch needs as many
channels as the patch has values, the image far fewer, so predicting data suits
large patches (Li and He 2025, "Back to Basics").  The loss is on the velocity
either way."""

import torch


def sample_t(n, kind, device, generator=None, shift=1.0, late=0.0, late_from=0.6):
    """Times to train on.  ``shift`` above 1 moves them toward noise: the more pixels an image has, the
    earlier its mean colour is visible through the noise, so those times need training too
    (Esser et al. 2024, section 5.3.2; a logit-normal t is hardly ever below 0.05).
    ``late``: this share of the times is uniform on [late_from, 1) instead.  A solver ends at the prediction
    near t = 0.9, where a shifted logit-normal puts less than 1 % of its samples."""
    if kind == "uniform":
        t = torch.rand(n, device=device, generator=generator)
    elif kind == "logit_normal":
        t = torch.randn(n, device=device, generator=generator).sigmoid()
    else:
        raise ValueError(f"train.t_dist = {kind!r}; it is uniform or logit_normal")
    t = t / (t + shift * (1 - t))
    if late:
        uniform = late_from + (1 - late_from) * torch.rand(n, device=device, generator=generator)
        t = torch.where(torch.rand(n, device=device, generator=generator) < late, uniform, t)
    return t


PREDICTIONS = ("velocity", "data")
LEAST_NOISE = 0.05  # lower limit of 1 - t in the loss, unless a run sets train.least_noise


def mix(x, noise, t):
    t = t[:, None, None, None]
    return t * x + (1 - t) * noise


def flow_loss(out, x, noise, t=None, prediction="velocity", least_noise=LEAST_NOISE, gradient_weight=0.0):
    """Mean squared error of the velocity x - noise, one value per sample; t is needed if the model predicts data.
    ``gradient_weight`` adds that multiple of the mean squared differences between neighbouring errors.  The best answer
    stays the mean of what is possible, but fine errors, such as steps along patch borders, count more."""
    out = out[:, : x.shape[1]].float()
    error = out - (x - noise) if prediction == "velocity" else out - x
    loss = error.square().flatten(1).mean(1)
    if gradient_weight:
        steps = error.diff(dim=2).square().flatten(1).mean(1) + error.diff(dim=3).square().flatten(1).mean(1)
        loss = loss + gradient_weight * steps
    return loss if prediction == "velocity" else loss / (1 - t).clamp_min(least_noise).square()


def drop_labels(labels, nulls, p_all, p_single, generator=None):
    """Replace labels by null: all labels of a sample with p_all and, with more than
    one table, each label separately with p_single, so that every null row is trained.
    A null may also be a row: the token ids of the empty prompt."""
    n, device = labels[0].shape[0], labels[0].device
    u = torch.rand(n, device=device, generator=generator)
    out = []
    for i, (y, null) in enumerate(zip(labels, nulls)):
        drop = u < p_all
        if len(labels) > 1:
            lo = p_all + i * p_single
            drop |= (u >= lo) & (u < lo + p_single)
        null = torch.as_tensor(null, device=device)
        out.append(torch.where(drop.view(-1, *[1] * (y.dim() - 1)), null, y))
    return out
