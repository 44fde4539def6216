"""A small convolutional classifier trained on real images to judge generated ones.
One trunk, one linear head per label column."""

import math
import os
import time

import torch
import torch.nn as nn
import torch.nn.functional as F


def conv(a, b, stride=1, size=3):
    return nn.Sequential(nn.Conv2d(a, b, size, stride, size // 2, bias=False), nn.BatchNorm2d(b))


class Probe(nn.Module):
    def __init__(self, heads, width=16):
        super().__init__()
        w, self.width = width, width
        layer = lambda *a: nn.Sequential(*conv(*a), nn.ReLU())
        self.trunk = nn.Sequential(layer(3, w), layer(w, 2 * w, 2), layer(2 * w, 2 * w), layer(2 * w, 4 * w, 2),
                                   layer(4 * w, 4 * w), layer(4 * w, 8 * w, 2))
        self.heads = nn.ModuleList(nn.Linear(8 * w, n) for n in heads)

    def features(self, x):
        """x [N, 3, s, s] in [-1, 1] -> [N, 8 * width]."""
        return self.trunk(x).mean((2, 3))

    def forward(self, x):
        f = self.features(x)
        return [h(f) for h in self.heads]


class Residual(nn.Module):
    """Two convolutions with a residual connection."""

    def __init__(self, a, b, stride):
        super().__init__()
        self.inner = nn.Sequential(*conv(a, b, stride), nn.ReLU(), *conv(b, b))
        self.past = nn.Identity() if a == b and stride == 1 else nn.Conv2d(a, b, 1, stride, bias=False)

    def forward(self, x):
        return F.relu(self.inner(x) + self.past(x))


class ResidualProbe(Probe):
    """Four times as deep, and with max pooling in addition to mean pooling, for local features."""

    def __init__(self, heads, width=24):
        super().__init__(heads, width)
        w = width
        self.trunk = nn.Sequential(*conv(3, w), nn.ReLU(), Residual(w, w, 1), Residual(w, 2 * w, 2),
                                   Residual(2 * w, 4 * w, 2), Residual(4 * w, 4 * w, 2))

    def features(self, x):
        f = self.trunk(x)
        return torch.cat([f.mean((2, 3)), f.amax((2, 3))], 1)


KINDS = {"plain": Probe, "residual": ResidualProbe}


def jitter(x, g):
    """Translated, rotated, scaled, recoloured and noisy copies, on white."""
    n = len(x)
    u = lambda lo, hi, *more: lo + (hi - lo) * torch.rand(n, *more, generator=g)
    angle, size = u(-0.15, 0.15), u(0.9, 1.12)
    dx, dy = u(-0.12, 0.12), u(-0.12, 0.12)
    c, s = angle.cos() / size, angle.sin() / size
    theta = torch.stack([torch.stack([c, -s, dx], 1), torch.stack([s, c, dy], 1)], 1)
    grid = F.affine_grid(theta, x.shape, align_corners=False)
    x = F.grid_sample(x - 1, grid, padding_mode="zeros", align_corners=False) + 1
    x = (x - 1) * u(0.9, 1.1, 3)[:, :, None, None] + 1
    return (x + u(0, 0.08)[:, None, None, None] * torch.randn(x.shape, generator=g)).clamp(-1, 1)


def dihedral(x, g):
    """A random symmetry of the square for each image."""
    bits = torch.randint(0, 8, (len(x),), generator=g)[:, None, None, None]
    x = torch.where((bits & 1).bool(), x.flip(3), x)
    x = torch.where((bits & 2).bool(), x.flip(2), x)
    return torch.where((bits & 4).bool(), x.transpose(2, 3), x)


def flip(x, g):
    """Half of the images mirrored left to right."""
    return torch.where(torch.randint(0, 2, (len(x), 1, 1, 1), generator=g).bool(), x.flip(3), x)


def shift(x, g, most=3):
    """Shifted by whole pixels on white, mirrored, slightly noisy: nothing that blurs lines or changes colours."""
    s = x.shape[-1]
    dy, dx = torch.randint(0, 2 * most + 1, (2,), generator=g).tolist()
    x = flip(F.pad(x, (most,) * 4, value=1.0)[:, :, dy : dy + s, dx : dx + s], g)
    noise = 0.05 * torch.rand(len(x), 1, 1, 1, generator=g)
    return (x + noise * torch.randn(x.shape, generator=g)).clamp(-1, 1)


AUGMENTATIONS = {"shift": shift, "jitter": jitter, "dihedral": dihedral, "flip": flip}


def train(images, columns, heads, augment, steps, batch=64, lr=3e-3, kind="plain", width=None, amp=False, seed=0):
    """images float [N, 3, s, s]; one label column per head.  Returns (probe in eval mode, seconds)."""
    torch.manual_seed(seed)
    g = torch.Generator().manual_seed(seed)
    probe = KINDS[kind](heads, *([width] if width else [])).to(memory_format=torch.channels_last).train()
    opt = torch.optim.AdamW(probe.parameters(), lr=lr, weight_decay=1e-2)
    start, order = time.process_time(), torch.empty(0, dtype=torch.long)
    for step in range(steps):
        for group in opt.param_groups:
            group["lr"] = lr * min(20 * (step + 1) / steps, 1) * 0.5 * (1 + math.cos(math.pi * step / steps))
        while len(order) < batch:
            order = torch.cat([order, torch.randperm(len(images), generator=g)])
        index, order = order[:batch], order[batch:]
        with torch.autocast("cpu", torch.bfloat16, enabled=amp):
            outs = probe(AUGMENTATIONS[augment](images[index], g))
        loss = sum(F.cross_entropy(o.float(), c[index], label_smoothing=0.05) for o, c in zip(outs, columns))
        opt.zero_grad()
        loss.backward()
        opt.step()
    return probe.eval(), time.process_time() - start


@torch.no_grad()
def predict(probe, x, batch=256):
    """One tensor of predicted indices per head."""
    outs = [[o.argmax(1) for o in probe(x[i : i + batch])] for i in range(0, len(x), batch)]
    return [torch.cat(c) for c in zip(*outs)]


@torch.no_grad()
def features(probe, x, batch=256):
    return torch.cat([probe.features(x[i : i + batch]) for i in range(0, len(x), batch)])


def cross_validate(images, columns, heads, augment, steps, folds=5, seed=0, **more):
    """Predictions for every image by a probe that was not trained on it: [columns][N] clean, and augmented."""
    g = torch.Generator().manual_seed(seed)
    fold = torch.randperm(len(images), generator=g) % folds
    clean = [torch.zeros_like(c) for c in columns]
    moved = [torch.zeros_like(c) for c in columns]
    for k in range(folds):
        rest, test = (fold != k).nonzero()[:, 0], (fold == k).nonzero()[:, 0]
        probe, _ = train(images[rest], [c[rest] for c in columns], heads, augment, steps, seed=seed + k, **more)
        for out, x in ((clean, images[test]), (moved, AUGMENTATIONS[augment](images[test], g))):
            for o, p in zip(out, predict(probe, x)):
                o[test] = p
    return clean, moved


def save(probe, report, path):
    kind = next(k for k, v in KINDS.items() if type(probe) is v)
    torch.save({"heads": [h.out_features for h in probe.heads], "width": probe.width, "kind": kind,
                "state": probe.state_dict(), "report": report}, path)


def load(path):
    s = torch.load(path, map_location="cpu", weights_only=True)
    probe = KINDS[s.get("kind", "plain")](s["heads"], s["width"])
    probe.load_state_dict(s["state"])
    return probe.eval(), s["report"]


def kept(folder, name, make):
    """(probe, report) from the folder if cached there; otherwise made, and cached if there is a folder."""
    path = folder and os.path.join(folder, name)
    if path and os.path.exists(path):
        return load(path)
    judge, report = make()
    if path:
        os.makedirs(folder, exist_ok=True)
        save(judge, report, path)
    return judge, report
