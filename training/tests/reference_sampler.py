"""Euler's and Heun's method, ancestral sampling and DDIM in PyTorch, written on their own: what recorded cases are made with,
and what samples by the package's schedulers (``diffmoe.train.sampler``) are compared with."""

import torch

import checkout  # noqa: F401 - finds the package
from diffmoe.sampling import is_inside
from diffmoe.schedulers.flow import LEAST_LEFT
from diffmoe.train.ddpm import Schedule
from diffmoe.train.sampler import begin_step


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


@torch.no_grad()
def flow(model, z, labels, steps=30, guidance=1.0, solver="euler", negative=None, **more):
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


@torch.no_grad()
def predict(model, z, time, labels, guidance, guided_channels):
    """(eps, variance channels).  With guidance one joint pass over conditional and
    null halves, which share a token pool; the null half's channels are dropped."""
    n, C = z.shape[:2]
    if guidance == 1.0:
        return model(z, torch.full((n,), time, device=z.device), labels)[0].float().split([C, C], dim=1)
    both = [torch.cat([y, null]) for y, null in zip(labels, model.null_labels(n, z.device))]
    out = model(torch.cat([z, z]), torch.full((2 * n,), time, device=z.device), both)[0].float()
    (cond, null), g = out.chunk(2), guided_channels
    cond = torch.cat([null[:, :g] + guidance * (cond[:, :g] - null[:, :g]), cond[:, g:]], dim=1)
    return cond.split([C, C], dim=1)


@torch.no_grad()
def ddpm(model, z, labels, steps=50, guidance=1.0, guided_channels=None, ddim=False, noises=None, generator=None):
    """Ancestral sampling, or DDIM with eta 0.  ``noises`` [steps, N, C, h, w]
    instead of fresh ones.  ``guided_channels``: all, or 3 as in the official code."""
    s = Schedule(steps)
    g = z.shape[1] if guided_channels is None else guided_channels
    for k, i in enumerate(reversed(range(len(s.times)))):
        ii = torch.full((len(z),), i, device=z.device)
        eps, v = predict(model, z, int(s.times[i]), labels, guidance, g)
        x0 = s.x0(z, ii, eps)
        if ddim:
            before = s.at(s.before, ii, z)
            z = before.sqrt() * x0 + (1 - before).sqrt() * eps
            continue
        noise = noises[k] if noises is not None else torch.randn(z.shape, generator=generator).to(z.device)
        z = s.posterior_mean(x0, z, ii) + (i > 0) * (0.5 * s.model_log_variance(v, ii)).exp() * noise
    return z
