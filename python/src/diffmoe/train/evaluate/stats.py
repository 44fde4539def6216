"""Intervals for shares, means, ratios and statistics of sets, rank correlation, and the Fréchet distance between two
sets of features."""

import math

import torch

Z95 = 1.959964


def wilson(hits, n, z=Z95):
    """95 % score interval of a share (Wilson 1927).  It treats the samples as
    independent; see ``over_groups`` for grouped samples."""
    if n == 0:
        return [0.0, 1.0]
    p, zz = hits / n, z * z / n
    half = z * math.sqrt(p * (1 - p) / n + zz / (4 * n))
    return [max(0.0, (p + zz / 2 - half) / (1 + zz)), min(1.0, (p + zz / 2 + half) / (1 + zz))]


def over_groups(hits, groups, seed=0, rounds=2000):
    """95 % percentile interval of the share when whole groups are resampled
    (cluster bootstrap)."""
    hits, groups = torch.as_tensor(hits).double(), torch.as_tensor(groups)
    _, at = groups.unique(return_inverse=True)
    k = int(at.max()) + 1
    sums = torch.zeros(k, dtype=torch.float64).index_add_(0, at, hits)
    sizes = torch.zeros(k, dtype=torch.float64).index_add_(0, at, torch.ones_like(hits))
    draw = torch.randint(0, k, (rounds, k), generator=torch.Generator().manual_seed(seed))
    shares = sums[draw].sum(1) / sizes[draw].sum(1)
    return torch.quantile(shares, torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()


def share(hits, groups=None):
    """{"hits", "n", "share", "wilson", and with groups "over_groups"} of a list of booleans."""
    hits = torch.as_tensor(hits).bool()
    n, k = len(hits), int(hits.sum())
    out = {"hits": k, "n": n, "share": k / max(n, 1), "wilson": wilson(k, n)}
    if groups is not None and n:
        out["over_groups"] = over_groups(hits, groups)
    return out


LEVELS = torch.tensor([0.025, 0.975], dtype=torch.float64)


def redrawn(n, rounds, seed):
    return torch.randint(0, n, (rounds, n), generator=torch.Generator().manual_seed(seed))


def mean(values, seed=0, rounds=2000):
    """{"value", "interval"}: mean of one number per image, 95 % bootstrap interval over the images."""
    v = torch.as_tensor(values).double()
    return {"value": float(v.mean()), "interval": torch.quantile(v[redrawn(len(v), rounds, seed)].mean(1), LEVELS).tolist()}


def ratio(a, b, seed=0, rounds=2000):
    """The same for the ratio of two means over the same images."""
    a, b = torch.as_tensor(a).double(), torch.as_tensor(b).double()
    draw = redrawn(len(a), rounds, seed)
    return {"value": float(a.mean() / b.mean()),
            "interval": torch.quantile(a[draw].mean(1) / b[draw].mean(1), LEVELS).tolist()}


def half_samples(statistic, n, seed=0, rounds=100):
    """{"value", "interval"} of a statistic of a set, a function of indices into it.  Resampling with replacement
    would create pairs of equal images; halves drawn without replacement vary as much around their mean as whole sets do."""
    g = torch.Generator().manual_seed(seed)
    halves = torch.tensor([statistic(torch.randperm(n, generator=g)[: max(2, n // 2)]) for _ in range(rounds)]).double()
    value = statistic(torch.arange(n))
    return {"value": value, "interval": (value + torch.quantile(halves - halves.mean(), LEVELS)).tolist()}


def spearman(a, b):
    """Rank correlation of two lists; equal values share their mean rank."""
    def ranks(v):
        v = torch.as_tensor(v, dtype=torch.float64)
        return (v[:, None] > v).double().sum(1) + ((v[:, None] == v).double().sum(1) - 1) / 2
    x, y = (r - r.mean() for r in (ranks(a), ranks(b)))
    return float((x * y).sum() / (x.square().sum() * y.square().sum()).sqrt())


def moments(features):
    """(mean [d], covariance [d, d]) of features [n, d], in float64."""
    f = features.double()
    return f.mean(0), torch.cov(f.T)


def frechet(a, b):
    """Squared Fréchet distance of two Gaussians (mean, covariance):
    |m1 - m2|^2 + tr(S1 + S2 - 2 (S1^1/2 S2 S1^1/2)^1/2)."""
    (m1, s1), (m2, s2) = a, b
    w, v = torch.linalg.eigh(s1)
    root = v @ torch.diag(w.clamp_min(0).sqrt()) @ v.T
    cross = torch.linalg.eigvalsh(root @ s2 @ root).clamp_min(0).sqrt().sum()
    return float((m1 - m2).square().sum() + s1.trace() + s2.trace() - 2 * cross)
