"""Rectified flow.  t = 0 is noise, t = 1 is data: z_t = t x + (1 - t) noise.

A model says the velocity x - noise, as in the paper, or the data x, from which
the velocity follows: (x - z_t) / (1 - t).  A patch of many numbers says its
noise through as many channels, its image through fewer, so wide patches want
the data (Li and He 2025, "Back to Basics").  Trained is the velocity either way."""

import torch


def sample_t(n, kind, device, generator=None, shift=1.0, late=0.0, late_from=0.6):
    """Times to train on.  ``shift`` above 1 moves them toward noise: the more pixels an image has, the
    earlier its mean colour shows through the noise, and what is decided there must be trained there
    (Esser et al. 2024, section 5.3.2; a logit-normal t hardly ever comes below 0.05).
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
LEAST_NOISE = 0.05  # what 1 - t counts as at least in the loss, unless a run sets train.least_noise
LEAST_LEFT = 0.01  # and in sampling, as in the program, whose adaptive solver asks for velocities at t = 1


def mix(x, noise, t):
    t = t[:, None, None, None]
    return t * x + (1 - t) * noise


def flow_loss(out, x, noise, t=None, prediction="velocity", least_noise=LEAST_NOISE):
    """Mean squared error of the velocity x - noise, one value per sample; t is needed for a prediction of data."""
    out = out[:, : x.shape[1]].float()
    if prediction == "velocity":
        return (out - (x - noise)).square().flatten(1).mean(1)
    return (out - x).square().flatten(1).mean(1) / (1 - t).clamp_min(least_noise).square()


def drop_labels(labels, nulls, p_all, p_single, generator=None):
    """Replace labels by null: all of a sample's with p_all, and with more than
    one table each on its own with p_single, so that every null row is trained.
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
    """The model's answer; with shifts, the mean over circular shifts of its input, each shifted back (cycle spinning): what
    depends on where the patch borders lie averages out."""
    C = z.shape[1]
    turned = [torch.roll(model(torch.roll(z, s, (2, 3)), tt, labels)[0][:, :C].float(), (-s[0], -s[1]), (2, 3)) for s in shifts]
    return turned[0] if len(turned) == 1 else torch.stack(turned).mean(0)


STILL = ((0, 0),)


def guided(t, interval):
    """Whether guidance applies at time t: lo <= t < hi, and at t = 1 if the interval reaches it; None is always."""
    if interval is None:
        return True
    return interval[0] - 1e-9 <= t < interval[1] - 1e-9 or (t > 1 - 1e-9 and interval[1] >= 1)


@torch.no_grad()
def velocity(model, z, t, labels, guidance, negative=None, interval=None, shifts=STILL, shifts_from=0.0):
    """Two separate passes: conditional and null tokens never share a pool.
    ``negative``: conditions to lead away from, instead of null.  ``interval``: guidance applies there (``guided``); elsewhere
    there is one pass (Kynkäänniemi et al. 2024).  ``shifts``: pixels (down, right), see ``answer``; from time shifts_from on."""
    tt = torch.full((z.shape[0],), t, device=z.device)
    shifts = shifts if t >= shifts_from - 1e-9 else STILL
    v = answer(model, z, tt, labels, shifts)
    if guidance != 1.0 and guided(t, interval):
        null = model.null_labels(z.shape[0], z.device) if negative is None else negative
        u = answer(model, z, tt, null, shifts)
        v = u + guidance * (v - u)
    return v if model.prediction == "velocity" else (v - z) / max(1 - t, LEAST_LEFT)


@torch.no_grad()
def sample(model, z, labels, steps=30, guidance=1.0, solver="euler", negative=None, **more):
    """Heun's method looks at the end of each step; at t = 1 no noise is left from which a prediction of data
    could tell a velocity, so there the last step is Euler's and ends at the data that is predicted.
    more: ``interval``, ``shifts``, ``shifts_from`` as for ``velocity``."""
    h = 1.0 / steps
    for i in range(steps):
        v = velocity(model, z, i * h, labels, guidance, negative, **more)
        if solver == "heun" and (model.prediction == "velocity" or i + 1 < steps):
            w = velocity(model, z + h * v, (i + 1) * h, labels, guidance, negative, **more)
            v = (v + w) / 2
        z = z + h * v
    return z
