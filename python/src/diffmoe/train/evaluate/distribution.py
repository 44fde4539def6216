"""Two sets of images compared by their features: kernel distance, Fréchet distance on principal components,
precision and recall.  They work on any features; none of them is FID."""

import torch

from . import stats

COMPONENTS = 128  # of the Fréchet distance; with fewer images than dimensions it would be singular
NEIGHBOURS = 3


def kernel(a, b):
    """The cubic kernel of the kernel inception distance (Bińkowski et al. 2018)."""
    return (a @ b.T / a.shape[1] + 1) ** 3


def kid(made, real):
    """Unbiased squared maximum mean discrepancy, features [n, d] and [m, d]; near 0 for equal distributions."""
    a, b = made.double(), real.double()
    n, m = len(a), len(b)
    aa, bb = kernel(a, a), kernel(b, b)
    return float((aa.sum() - aa.trace()) / (n * (n - 1)) + (bb.sum() - bb.trace()) / (m * (m - 1)) - 2 * kernel(a, b).mean())


def kid_with_interval(made, real, seed=0):
    """(estimate, [lo, hi]); the kernel matrices are computed once."""
    a, b = made.double(), real.double()
    aa, ab, m = kernel(a, a), kernel(a, b).mean(1), len(b)
    bb = kernel(b, b)
    within = float((bb.sum() - bb.trace()) / (m * (m - 1)))

    def of(index):
        k = aa[index][:, index]
        n = len(index)
        return float((k.sum() - k.trace()) / (n * (n - 1)) + within - 2 * ab[index].mean())

    return stats.half_samples(of, len(a), seed)


def standardised(features, scale):
    """Features centred and divided by one overall deviation, both taken from ``scale``.  Kernels and distances of sets with
    the same scale are comparable."""
    return (features - scale.mean(0)) / scale.std(0).square().mean().sqrt()


def principal(real, components=COMPONENTS):
    """A function that gives the leading principal components, found on real features."""
    mean = real.double().mean(0)
    _, _, v = torch.linalg.svd(real.double() - mean, full_matrices=False)
    v = v[: min(components, len(v))].T
    return lambda f: (f.double() - mean) @ v


def frechet_with_interval(made, real, seed=0):
    """Squared Fréchet distance on the leading components; it falls with the number of images, so only compare
    values for equal numbers."""
    project = principal(real)
    base, f = stats.moments(project(real)), project(made)
    return stats.half_samples(lambda i: stats.frechet(stats.moments(f[i]), base), len(f), seed, rounds=40)


def radii(features, k=NEIGHBOURS):
    """Distance of each to its k-th nearest neighbour (to the farthest, if there are fewer)."""
    return torch.cdist(features, features).kthvalue(min(k + 1, len(features)), dim=1).values


def precision_recall(made, real, seed=0):
    """Kynkäänniemi et al. 2019: the share of generated images within the balls of real ones, and the reverse.
    Recall grows with the number of generated images."""
    d = torch.cdist(made, real)
    precision = (d < radii(real)[None]).any(1)
    recall = (d.T < radii(made)[None]).any(1)
    return {"precision": stats.mean(precision, seed=seed), "recall": stats.mean(recall, seed=seed)}
