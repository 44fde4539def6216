"""The patch grid: steps between neighbouring pixels across patch borders, relative to steps elsewhere."""

import torch

from . import stats


def steps(x, period):
    """x [N, C, s, s] -> per image (mean absolute step across every ``period``-th column and row, mean elsewhere)."""
    sums = torch.zeros(2, len(x), dtype=torch.float64)
    counts = [0, 0]
    for d in (x.diff(dim=3), x.diff(dim=2).transpose(2, 3)):
        across = torch.arange(1, x.shape[-1]) % period == 0
        for i, of in enumerate((across, ~across)):
            part = d[..., of].abs().double()
            sums[i] += part.sum((1, 2, 3))
            counts[i] += part[0].numel()
    return sums[0] / counts[0], sums[1] / counts[1]


def grid(x, period, seed=0):
    """{"value", "interval"}: the ratio of the two means over all images.  Without a grid it is near 1."""
    across, elsewhere = steps(x, period)
    return stats.ratio(across, elsewhere, seed)


def gradient(x, seed=0):
    """Mean absolute step between neighbouring pixels, in 8-bit levels."""
    both = torch.cat([x.diff(dim=3).flatten(1), x.diff(dim=2).flatten(1)], 1).abs().mean(1) * 127.5
    return stats.mean(both, seed=seed)
