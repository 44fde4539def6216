"""Multistep schedulers for flow and DDPM models: DPM-Solver++(2M) (Lu et al. 2022) and UniPC (Zhao et al. 2023).

The sample at a point of the path is ``z = α·x₀ + σ·ε``, and ``λ = log(α/σ)`` increases along the path. With ``h = λ_t - λ_s``
and a constant data prediction ``D``

    z_t = σ_t/σ_s·z_s + α_t·(1 - e^-h)·D
"""

from __future__ import annotations

import math

import numpy as np

from .ddpm import EpsilonOptions
from .flow import time
from .process import TRAINED_STEPS, Process


class _Path:
    """The points of a run: the start of each step, and the data at the end.

    Flow models: ``α = t`` and ``σ = 1 - t`` at the times of Euler's method. DDPM models: ``α = √ᾱ`` and ``σ = √(1 - ᾱ)`` at
    the training steps ``999·(N - i)/N``, rounded, and no noise at the end.
    """

    def __init__(self, options: EpsilonOptions, run, steps: int):
        self.options, self.run, self.steps = options, run, steps
        share = np.arange(steps) / steps
        if run.config.objective == "flow":
            self.times = np.array([time(i, steps) for i in range(steps)])
            alpha = share
            sigma = 1 - share
        else:
            self.times = np.round((steps - np.arange(steps)) / steps * (TRAINED_STEPS - 1)).astype(int)
            bars = Process(TRAINED_STEPS).alphas_bar[self.times]
            alpha, sigma = np.sqrt(bars), np.sqrt(1 - bars)
        self.alpha, self.sigma = np.append(alpha, 1.0), np.append(sigma, 0.0)

    def log_step(self, i: int) -> float:
        """``h`` of the step from point ``i``; infinite for steps from pure noise or to the data."""
        with np.errstate(divide="ignore"):
            begin, end = np.log(self.alpha[i : i + 2]) - np.log(self.sigma[i : i + 2])
        return end - begin

    def transfer(self, i: int) -> tuple[float, float]:
        """``σ_t/σ_s`` and ``α_t·(1 - e^-h)`` of the step from point ``i``."""
        ratio = self.sigma[i + 1] / self.sigma[i]
        return ratio, self.alpha[i + 1] - ratio * self.alpha[i]

    def data(self, i: int, z: np.ndarray) -> np.ndarray:
        """The predicted data for the sample at point ``i``."""
        if self.run.config.objective == "flow":
            prediction = self.run.guided(z, self.times[i])
            if self.run.config.prediction == "data":
                return prediction
            if self.run.config.prediction == "reversed":
                prediction = -prediction
            # From v = x₀ - ε and z = t·x₀ + (1 - t)·ε follows x₀ = z + (1 - t)·v.
            return z + np.float32(self.sigma[i]) * prediction
        predict = 1 / self.alpha[i], self.sigma[i] / self.alpha[i]
        return self.options.predicted(self.run, z, self.times[i], predict)[0]

    def level(self, i: int) -> tuple[float, float]:
        """Signal and noise of the sample at point ``i``."""
        return self.alpha[i], self.sigma[i]

    def beyond(self, i: int, is_first: bool) -> float:
        """Extrapolation factor of the second-order method; the first step of a run and the last are of order 1."""
        if is_first or i + 1 == self.steps:
            return 0.0
        return 0.5 * self.log_step(i) / self.log_step(i - 1)


def _sum(*terms) -> np.ndarray:
    """``Σ factor·array`` in float32."""
    return sum(np.float32(factor) * array for factor, array in terms)


class DPMSolver(EpsilonOptions):
    """DPM-Solver++(2M): second order with one evaluation per step; accurate in few steps."""

    name, objectives, max_ddpm_steps = "dpmpp_2m", ("flow", "ddpm"), TRAINED_STEPS - 1

    def begin(self, run, steps: int):
        """Starts a run."""
        return _Dpm(_Path(self, run, steps))


class _Dpm:
    def __init__(self, path: _Path):
        self.path, self.level, self.before = path, path.level, None

    def step(self, i: int, z: np.ndarray) -> np.ndarray:
        now = self.path.data(i, z)
        (of_sample, of_data), beyond = self.path.transfer(i), self.path.beyond(i, self.before is None)
        before = now if self.before is None else self.before
        self.before = now
        return _sum((of_sample, z), (of_data * (1 + beyond), now), (-of_data * beyond, before))


class UniPC(EpsilonOptions):
    """UniPC of order 2 (bh2): the predictor is DPM-Solver++(2M); the corrector reuses the evaluation of the next step. One
    evaluation per step; accurate in few steps."""

    name, objectives, max_ddpm_steps = "unipc", ("flow", "ddpm"), TRAINED_STEPS - 1

    def begin(self, run, steps: int):
        """Starts a run."""
        return _UniPc(_Path(self, run, steps))


class _UniPc:
    def __init__(self, path: _Path):
        self.path, self.level = path, path.level
        self.history: list[np.ndarray] = []  # predicted data at the previous two points, latest last
        self.corrected = None  # corrected sample at the start of the previous step

    def step(self, i: int, z: np.ndarray) -> np.ndarray:
        """``z`` and the result are predicted (uncorrected) samples at points ``i`` and ``i + 1``."""
        now = self.path.data(i, z)
        self.corrected = z if self.corrected is None else self._correct(i, now)
        (of_sample, of_data), beyond = self.path.transfer(i), self.path.beyond(i, not self.history)
        before = self.history[-1] if self.history else now
        self.history = [*self.history[-1:], now]
        return _sum((of_sample, self.corrected), (of_data * (1 + beyond), now), (-of_data * beyond, before))

    def _correct(self, i: int, now: np.ndarray) -> np.ndarray:
        """Corrected sample at point ``i``, from the one at ``i - 1`` and the data at ``i - 2``, ``i - 1`` and ``i``."""
        path, before = self.path, self.history[-1]
        of_sample, of_data = path.transfer(i - 1)
        if len(self.history) == 1:
            long_before, of_long_before, of_now = before, 0.0, 0.5
        else:
            h, r = path.log_step(i - 1), -path.log_step(i - 2) / path.log_step(i - 1)
            first, of_now = _weights(h, r)
            long_before, of_long_before = self.history[-2], first / r
        return _sum(
            (of_sample, self.corrected),
            (of_data * (1 - of_long_before - of_now), before),
            (of_data * of_now, now),
            (of_data * of_long_before, long_before),
        )


def _weights(h: float, r: float) -> tuple[float, float]:
    """``ρ₁`` and ``ρ₂``: the solution of ``ρ₁ + ρ₂ = b₁`` and ``r·ρ₁ + ρ₂ = b₂`` with ``b_n = n!·φ_n/B``, where for ``g = -h``
    ``B = e^g - 1``, ``φ₁ = B/g - 1`` and ``φ₂ = φ₁/g - ½``."""
    b = math.expm1(-h)
    phi_1 = b / -h - 1
    phi_2 = phi_1 / -h - 0.5
    b_1, b_2 = phi_1 / b, 2 * phi_2 / b
    first = (b_1 - b_2) / (1 - r)
    return first, b_1 - first
