"""The diffusion process of DDPM models: 1000 steps with linear variances, respaced to fewer (Ho et al. 2020; Nichol and
Dhariwal 2021 for respacing). Tables are float64, as in the official code."""

from __future__ import annotations

import numpy as np

TRAINED_STEPS = 1000


class Process:
    """The variances of the kept steps, from data (0) to noise."""

    def __init__(self, steps: int):
        """Keeps ``steps`` of the 1000, evenly spread, first and last included."""
        bars = np.cumprod(1 - (1e-4 + (0.02 - 1e-4) * np.arange(TRAINED_STEPS) / (TRAINED_STEPS - 1)))
        stride = 1.0 if steps == 1 else (TRAINED_STEPS - 1) / (steps - 1)
        at, times = 0.0, []
        for _ in range(steps):
            # Added up, and halves to even, as the official code does: the rounding decides on steps.
            times.append(round(at))
            at += stride
        self.times = np.array(times)  #: kept steps of the trained process: what the model is told as time
        self.alphas_bar = bars[self.times]  #: share of the data's variance that is left after a step
        self.betas = 1 - self.alphas_bar / np.concatenate([[1.0], self.alphas_bar[:-1]])

    def bar_before(self, i: int) -> float:
        """``ᾱ`` of the step before, 1 at the first."""
        return self.alphas_bar[i - 1] if i else 1.0

    def posterior_variance(self, i: int) -> float:
        """``β̃``: variance of a step back when the data are known."""
        return self.betas[i] * (1 - self.bar_before(i)) / (1 - self.alphas_bar[i])

    def log_posterior_variance(self, i: int) -> float:
        """``log β̃``, where the first, which is ``log 0``, is replaced by the second."""
        with np.errstate(divide="ignore"):
            return np.log(self.posterior_variance(1 if i == 0 and len(self.times) > 1 else i))

    def predict(self, i: int) -> tuple[float, float]:
        """``√(1/ᾱ)`` and ``√(1/ᾱ - 1)``, which turn sample and noise into the predicted data."""
        inverse = 1 / self.alphas_bar[i]
        return np.sqrt(inverse), np.sqrt(inverse - 1)
