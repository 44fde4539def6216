"""Measures during training how well a model predicts images that it was not trained on.

For fixed images, noise and times: the mean squared error of the predicted image, in the units of the
data ([-1, 1]), on held-out and on seen images.  ``heldout.csv`` of a run has a row per measurement and set.  A model
that returned its input divided by t would have ((1 - t) / t)^2, the variance of the noise left in it."""

import csv
import math
import os

import torch

from . import flow

TIMES = (0.1, 0.3, 0.5, 0.7, 0.9, 0.95, 0.98)
COLUMNS = ["step", "images", "weights", "set", "pictures", "figure", *(f"x_mse_t{t:g}" for t in TIMES)]


def predicted_data(out, z, t, prediction):
    """The prediction of x0 that follows from a flow model's output."""
    out = out[:, : z.shape[1]].float()
    return out if prediction == "data" else z + (1 - t) * out


def figure(errors):
    """One number for a list of errors over ``TIMES``: their geometric mean, which weights all noise levels equally."""
    return math.exp(sum(math.log(max(e, 1e-12)) for e in errors) / len(errors))


class HeldOut:
    """Measures at most ``count`` images of each of ``sets``: {name: dataset}."""

    def __init__(self, sets, count=500, batch=64, seed=7):
        self.parts, g = {}, torch.Generator().manual_seed(seed)
        for name, dataset in sets.items():
            pick = torch.randperm(len(dataset), generator=g)[:count]
            x, labels = dataset.batch(pick, generator=g)
            noise = torch.randn(x.shape, generator=g)
            self.parts[name] = [(x[i : i + batch], [l[i : i + batch] for l in labels], noise[i : i + batch])
                                for i in range(0, len(x), batch)]

    @torch.no_grad()
    def measure(self, model, device="cpu"):
        """{set: [error at each of TIMES]} of a model in eval mode."""
        was, out = model.training, {}
        model.eval()
        for name, parts in self.parts.items():
            sums, count = [0.0] * len(TIMES), 0
            for x, labels, noise in parts:
                x, noise, labels = x.to(device), noise.to(device), [l.to(device) for l in labels]
                count += len(x)
                for i, time in enumerate(TIMES):
                    t = torch.full((len(x),), time, device=device)
                    z = flow.mix(x, noise, t)
                    said = predicted_data(model(z, t, labels)[0], z, time, model.prediction)
                    sums[i] += (said - x).square().flatten(1).mean(1).sum().item()
            out[name] = [s / count for s in sums]
        model.train(was)
        return out

    def sizes(self):
        return {name: sum(len(p[0]) for p in parts) for name, parts in self.parts.items()}


def append(path, step, images, weights, errors, sizes):
    """Append a row per set; rows of later steps, left by a run resumed from an earlier checkpoint, are removed."""
    rows = []
    if os.path.exists(path):
        with open(path, newline="") as f:
            rows = [r for r in list(csv.reader(f))[1:] if (int(r[0]), r[2]) < (step, weights)]
    rows += [[step, images, weights, name, sizes[name], f"{figure(e):.6f}", *(f"{v:.6f}" for v in e)]
             for name, e in errors.items()]
    with open(path + ".tmp", "w", newline="") as f:
        writer = csv.writer(f)
        writer.writerow(COLUMNS)
        writer.writerows(rows)
    os.replace(path + ".tmp", path)


def best(path):
    """(figure, step, weights) of the best measurement of held-out images in the file; None if there is none."""
    if not os.path.exists(path):
        return None
    with open(path, newline="") as f:
        rows = [(float(r["figure"]), int(r["step"]), r["weights"]) for r in csv.DictReader(f) if r["set"] == "held_out"]
    return min(rows, default=None)
