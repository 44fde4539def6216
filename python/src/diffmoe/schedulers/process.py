"""The diffusion process of DDPM models: 1000 steps with a linear variance schedule, respaced to fewer (Ho et al. 2020;
Nichol and Dhariwal 2021 for respacing). Tables are float64, as in the official code."""

from __future__ import annotations

import numpy as np

TRAINED_STEPS = 1000


class Process:
    """Variance schedule of the kept steps, from data (0) to noise."""

    def __init__(self, steps: int):
        """Keeps ``steps`` of the 1000 steps, evenly spaced, including the first and last."""
        bars = np.cumprod(1 - (1e-4 + (0.02 - 1e-4) * np.arange(TRAINED_STEPS) / (TRAINED_STEPS - 1)))
        stride = 1.0 if steps == 1 else (TRAINED_STEPS - 1) / (steps - 1)
        at, times = 0.0, []
        for _ in range(steps):
            # Accumulated, and rounded half to even, as in the official code: the rounding affects which steps are kept.
            times.append(round(at))
            at += stride
        self.times = np.array(times)  #: kept steps, which the model receives as time
        self.alphas_bar = bars[self.times]  #: ᾱ of the kept steps
        self.betas = 1 - self.alphas_bar / np.concatenate([[1.0], self.alphas_bar[:-1]])

    def bar_before(self, i: int) -> float:
        """``ᾱ`` of the previous step; 1 for the first."""
        return self.alphas_bar[i - 1] if i else 1.0

    def level(self, index: int) -> tuple[float, float]:
        """Signal and noise of a sample before step ``index`` of a run, and after the last."""
        bar = self.bar_before(len(self.times) - index)
        return np.sqrt(bar), np.sqrt(1 - bar)

    def posterior_variance(self, i: int) -> float:
        """``β̃``, the posterior variance."""
        return self.betas[i] * (1 - self.bar_before(i)) / (1 - self.alphas_bar[i])

    def log_posterior_variance(self, i: int) -> float:
        """``log β̃``; the first value would be ``log 0`` and is replaced by the second."""
        with np.errstate(divide="ignore"):
            return np.log(self.posterior_variance(1 if i == 0 and len(self.times) > 1 else i))

    def predict(self, i: int) -> tuple[float, float]:
        """``√(1/ᾱ)`` and ``√(1/ᾱ - 1)``, the factors of sample and noise in the predicted data."""
        inverse = 1 / self.alphas_bar[i]
        return np.sqrt(inverse), np.sqrt(inverse - 1)
