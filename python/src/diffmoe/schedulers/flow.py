"""Euler and Heun schedulers for flow models (``t = 0`` is noise, ``t = 1`` is data)."""

from __future__ import annotations

import numpy as np

#: Lower bound of ``1 - t`` when a data prediction is converted to a velocity.
LEAST_LEFT = 0.01


def time(i: int, steps: int) -> np.float32:
    """Model time at the start of step ``i``."""
    return np.float32(i) / np.float32(steps)


def velocity(run, z: np.ndarray, t: np.float32) -> np.ndarray:
    """The guided velocity ``dz/dt``; a data prediction ``x`` is converted by ``(x - z)/(1 - t)``."""
    prediction = run.guided(z, t)
    if run.config.prediction == "velocity":
        return prediction
    if run.config.prediction == "reversed":
        return -prediction
    return (prediction - z) / np.float32(max(1 - t, LEAST_LEFT))


class Euler:
    """One evaluation per step."""

    name, objectives, max_ddpm_steps = "euler", ("flow",), 0

    def begin(self, run, steps: int):
        """Starts a run."""
        return _Stepper(run, steps, heun=False)


class Heun:
    """Two evaluations per step: twice the cost of Euler, more accurate."""

    name, objectives, max_ddpm_steps = "heun", ("flow",), 0

    def begin(self, run, steps: int):
        """Starts a run."""
        return _Stepper(run, steps, heun=True)


class _Stepper:
    def __init__(self, run, steps: int, heun: bool):
        self.run, self.steps, self.heun = run, steps, heun

    def level(self, i: int) -> tuple[float, float]:
        """Signal and noise of the sample before step ``i``."""
        return i / self.steps, 1 - i / self.steps

    def step(self, i: int, z: np.ndarray) -> np.ndarray:
        """Heun's method evaluates both ends of a step. At ``t = 1`` a data prediction does not determine a velocity, so
        for such models the last step is an Euler step, which ends at the predicted data."""
        dt = np.float32(1 / self.steps)
        first = velocity(self.run, z, time(i, self.steps))
        if not self.heun or (i + 1 == self.steps and self.run.config.prediction == "data"):
            return z + dt * first
        second = velocity(self.run, z + dt * first, time(i + 1, self.steps))
        return z + np.float32(0.5) * dt * (first + second)
