"""Euler's and Heun's methods for flow models (``t = 0`` is noise, ``t = 1`` data)."""

from __future__ import annotations

import numpy as np

#: What ``1 - t`` counts as at least where a prediction of data is divided by it.
LEAST_LEFT = 0.01


def time(i: int, steps: int) -> np.float32:
    """Model time at the beginning of step ``i``."""
    return np.float32(i) / np.float32(steps)


def velocity(run, z: np.ndarray, t: np.float32) -> np.ndarray:
    """The guided velocity ``dz/dt``; from a prediction of data ``x`` it follows as ``(x - z)/(1 - t)``."""
    prediction = run.guided(z, t)
    if run.config.prediction == "velocity":
        return prediction
    return (prediction - z) / np.float32(max(1 - t, LEAST_LEFT))


class Euler:
    """One evaluation per step."""

    name, objectives, max_ddpm_steps = "euler", ("flow",), 0

    def begin(self, run, steps: int):
        """Nothing to prepare."""
        return _Stepper(run, steps, heun=False)


class Heun:
    """Two evaluations per step: twice the work of Euler, more accurate."""

    name, objectives, max_ddpm_steps = "heun", ("flow",), 0

    def begin(self, run, steps: int):
        """Nothing to prepare."""
        return _Stepper(run, steps, heun=True)


class _Stepper:
    def __init__(self, run, steps: int, heun: bool):
        self.run, self.steps, self.heun = run, steps, heun

    def step(self, i: int, z: np.ndarray) -> np.ndarray:
        """Heun's method evaluates both ends of a step. At ``t = 1`` no noise is left from which a prediction of data could
        give a velocity, so for such a model the last step is Euler's, which ends at the data that is predicted."""
        dt = np.float32(1 / self.steps)
        first = velocity(self.run, z, time(i, self.steps))
        if not self.heun or (i + 1 == self.steps and self.run.config.prediction == "data"):
            return z + dt * first
        second = velocity(self.run, z + dt * first, time(i + 1, self.steps))
        return z + np.float32(0.5) * dt * (first + second)
