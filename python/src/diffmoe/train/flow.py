"""Rectified flow.  t = 0 is noise, t = 1 is data: z_t = t x + (1 - t) noise.

A model predicts the velocity x - noise, as in the paper, or the data x, from which
the velocity follows: (x - z_t) / (1 - t).  The noise of a patch needs as many
channels as the patch has values, the image far fewer, so predicting data suits
large patches (Li and He 2025, "Back to Basics").  The loss is on the velocity
either way."""

import torch

from ..sampling import is_inside
from ..schedulers.flow import LEAST_LEFT


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


def answer(model, z, tt, labels, shifts):
    """The model's output; with shifts, the mean over circular shifts of its input, each shifted back (cycle spinning), which
    averages out the dependence on patch borders."""
    C = z.shape[1]
    turned = [torch.roll(model(torch.roll(z, s, (2, 3)), tt, labels)[0][:, :C].float(), (-s[0], -s[1]), (2, 3)) for s in shifts]
    return turned[0] if len(turned) == 1 else torch.stack(turned).mean(0)


STILL = ((0, 0),)


@torch.no_grad()
def velocity(model, z, t, labels, guidance, negative=None, interval=None, shifts=STILL, shifts_from=0.0):
    """Two separate passes: conditional and unconditional tokens never share a pool.
    ``negative``: conditions of the unconditional pass instead of null.  ``interval``: times with guidance (``is_inside``);
    elsewhere there is one pass (Kynkäänniemi et al. 2024).  ``shifts``: pixels (down, right), see ``answer``; from time
    shifts_from on."""
    tt = torch.full((z.shape[0],), t, device=z.device)
    shifts = shifts if t >= shifts_from - 1e-9 else STILL
    v = answer(model, z, tt, labels, shifts)
    if guidance != 1.0 and (interval is None or is_inside(t, interval)):
        null = model.null_labels(z.shape[0], z.device) if negative is None else negative
        u = answer(model, z, tt, null, shifts)
        v = u + guidance * (v - u)
    return v if model.prediction == "velocity" else (v - z) / max(1 - t, LEAST_LEFT)


def begin_step(model, t):
    """Tells a model that has a refiner where its next step begins; None: the steps are over."""
    if hasattr(model, "begin_step"):
        model.begin_step(t)


@torch.no_grad()
def sample(model, z, labels, steps=30, guidance=1.0, solver="euler", negative=None, **more):
    """Heun's method evaluates the model at the end of each step.  At t = 1 the velocity of a data prediction is
    undefined, so the last step is an Euler step, which ends at the predicted data.
    A model with a refiner is told where a step begins, which decides who computes it (``refined``).
    more: ``interval``, ``shifts``, ``shifts_from`` as for ``velocity``."""
    h = 1.0 / steps
    for i in range(steps):
        begin_step(model, i * h)
        v = velocity(model, z, i * h, labels, guidance, negative, **more)
        if solver == "heun" and (model.prediction == "velocity" or i + 1 < steps):
            w = velocity(model, z + h * v, (i + 1) * h, labels, guidance, negative, **more)
            v = (v + w) / 2
        z = z + h * v
    begin_step(model, None)
    return z
