"""The nearest real image in pixel space."""

import torch


def nearest(x, gallery, batch=256):
    """x, gallery [N, 3, s, s] in [-1, 1] -> (index into the gallery [N], RMS distance in 8-bit levels [N])."""
    flat = gallery.flatten(1)
    index, distance = [], []
    for i in range(0, len(x), batch):
        d = torch.cdist(x[i : i + batch].flatten(1), flat)
        best = d.min(1)
        index.append(best.indices)
        distance.append(best.values)
    return torch.cat(index), torch.cat(distance) * 127.5 / flat.shape[1] ** 0.5


def spacing(gallery):
    """Median over real images of the distance to the nearest other one."""
    d = torch.cdist(gallery.flatten(1), gallery.flatten(1)).fill_diagonal_(float("inf"))
    return float(d.min(1).values.median() * 127.5 / gallery[0].numel() ** 0.5)
