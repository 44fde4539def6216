"""DDPM with learned variances, as the official code uses it (from DiT and ADM).

The tables are those of ``diffmoe.schedulers.process``; the network gets the integer time and
predicts the noise; its second half of channels interpolates the log variance
between that of the posterior and that of beta.  Here time 0 is data, unlike in ``flow``."""

import math

import torch
import torch.nn.functional as F

from ..schedulers.process import TRAINED_STEPS as STEPS
from ..schedulers.process import Process


class Schedule:
    """Tables of the 1000 steps, or of ``count`` among them, as tensors."""

    def __init__(self, count=STEPS):
        process, steps = Process(count), range(count)
        self.times, self.alpha_bar, self.beta = map(torch.from_numpy, (process.times, process.alphas_bar, process.betas))
        self.before = before = torch.tensor([process.bar_before(i) for i in steps], dtype=torch.float64)
        # Of q(x_{t-1} | x_t, x_0).
        self.log_variance = torch.tensor([process.log_posterior_variance(i) for i in steps], dtype=torch.float64)
        self.mean_of_x0 = self.beta * before.sqrt() / (1 - self.alpha_bar)
        self.mean_of_xt = (1 - before) * (1 - self.beta).sqrt() / (1 - self.alpha_bar)

    def at(self, table, i, x):
        """Values of a table at steps i, broadcastable over x [N, C, h, w]."""
        return table.to(x.device)[i].float()[:, None, None, None]

    def noised(self, x, i, noise):
        return self.at(self.alpha_bar.sqrt(), i, x) * x + self.at((1 - self.alpha_bar).sqrt(), i, x) * noise

    def x0(self, x, i, eps):
        a = self.alpha_bar
        return self.at(a.rsqrt(), i, x) * x - self.at((1 / a - 1).sqrt(), i, x) * eps

    def posterior_mean(self, x0, x, i):
        return self.at(self.mean_of_x0, i, x) * x0 + self.at(self.mean_of_xt, i, x) * x

    def model_log_variance(self, v, i):
        share = (v + 1) / 2
        return share * self.at(self.beta.log(), i, v) + (1 - share) * self.at(self.log_variance, i, v)


def kl(mean1, logvar1, mean2, logvar2):
    return 0.5 * (-1 + logvar2 - logvar1 + (logvar1 - logvar2).exp() + (mean1 - mean2).square() * (-logvar2).exp())


def discretised_log_likelihood(x, mean, log_scale):
    """Of x in bins of 1/255 under a Gaussian, with the tanh approximation of its distribution function."""
    cdf = lambda z: 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z**3)))
    centred, inverse = x - mean, (-log_scale).exp()
    upper, lower = cdf(inverse * (centred + 1 / 255)), cdf(inverse * (centred - 1 / 255))
    middle = (upper - lower).clamp_min(1e-12).log()
    return torch.where(x < -0.999, upper.clamp_min(1e-12).log(),
                       torch.where(x > 0.999, (1 - lower).clamp_min(1e-12).log(), middle))


def loss(out, x, noise, i, schedule):
    """(squared error of the noise, variational bound in bits per dimension), one
    value each per sample.  The bound trains the variances only."""
    C = x.shape[1]
    eps, v = out.float().split([C, out.shape[1] - C], dim=1)
    z = schedule.noised(x, i, noise)
    mean = schedule.posterior_mean(schedule.x0(z, i, eps.detach()), z, i)
    logvar = schedule.model_log_variance(v, i)
    true = schedule.posterior_mean(x, z, i)
    true_logvar = schedule.at(schedule.log_variance, i, x).expand_as(logvar)
    flat = lambda q: q.flatten(1).mean(1) / math.log(2)
    bound = torch.where(i == 0, flat(-discretised_log_likelihood(x, mean, 0.5 * logvar)),
                        flat(kl(true, true_logvar, mean, logvar)))
    return F.mse_loss(eps, noise, reduction="none").flatten(1).mean(1), bound
