"""Ancestral sampling (Ho et al. 2020; Nichol and Dhariwal 2021 for learned variances) and DDIM (Song et al. 2021) for
models that predict noise."""

from __future__ import annotations

import numpy as np

from ..errors import SettingsError, one_of
from .process import TRAINED_STEPS, Process


class EpsilonOptions:
    """Options for models that predict noise.

    ``guided_channels``: ``"3"``, as in the official code and DiT, or ``"all"``. ``clip``: whether to clip the predicted data
    to [-1, 1] in every step; for pixel-space models.
    """

    def __init__(self, guided_channels: str = "3", clip: bool = False):
        if str(guided_channels) not in ("3", "all"):
            raise SettingsError(f"guided_channels must be {one_of(['3', 'all'])}, got {guided_channels!r}")
        self.guided_channels, self.clip = str(guided_channels), bool(clip)

    def options(self) -> dict:
        """Options and their values."""
        return vars(self)

    def predicted(self, run, z: np.ndarray, time: float, predict) -> tuple[np.ndarray, np.ndarray | None]:
        """The predicted data, and the variance output of the model if it has one."""
        channels = run.config.in_channels
        guided = channels if self.guided_channels == "all" else min(3, channels)
        if not run.is_guided(time):
            out = run.forward(z, time)
            noise = out[:, :channels]
        else:
            out, null = run.joint(z, time)
            noise = out[:, :channels].copy()
            noise[:, :guided] = null[:, :guided] + np.float32(run.guidance) * (noise[:, :guided] - null[:, :guided])
        start = np.float32(predict[0]) * z - np.float32(predict[1]) * noise
        variance = out[:, channels:] if run.config.out_channels > channels else None
        return (np.clip(start, -1, 1) if self.clip else start), variance


class DDPM(EpsilonOptions):
    """Ancestral sampling: adds noise in every step."""

    name, objectives, max_ddpm_steps = "ddpm", ("ddpm",), TRAINED_STEPS

    def begin(self, run, steps: int):
        """Starts a run."""
        return _Ancestral(self, run, Process(steps))


class _Ancestral:
    def __init__(self, options: EpsilonOptions, run, process: Process):
        self.options, self.run, self.process = options, run, process

    def level(self, index: int) -> tuple[float, float]:
        """Signal and noise of the sample before step ``index``."""
        return self.process.level(index)

    def step(self, index: int, z: np.ndarray) -> np.ndarray:
        process = self.process
        i = len(process.times) - 1 - index
        start, variance = self.options.predicted(self.run, z, process.times[i], process.predict(i))
        beta, bar, before = process.betas[i], process.alphas_bar[i], process.bar_before(i)
        of_start = np.float32(beta * np.sqrt(before) / (1 - bar))
        of_sample = np.float32((1 - before) * np.sqrt(1 - beta) / (1 - bar))
        mean = of_start * start + of_sample * z
        if i == 0:
            return mean
        if variance is None:
            deviation = np.float32(np.sqrt(beta))
        else:
            share = (variance + 1) / 2
            low, high = np.float32(process.log_posterior_variance(i)), np.float32(np.log(beta))
            deviation = np.exp(np.float32(0.5) * (share * high + (1 - share) * low))
        return mean + deviation * self.run.step_noise(index)


class DDIM(EpsilonOptions):
    """DDIM: deterministic for ``eta`` 0; 1 adds as much noise as DDPM."""

    name, objectives, max_ddpm_steps = "ddim", ("ddpm",), TRAINED_STEPS

    def __init__(self, guided_channels: str = "3", clip: bool = False, eta: float = 0.0):
        super().__init__(guided_channels, clip)
        if not 0 <= eta <= 1:
            raise SettingsError(f"eta must be 0–1, got {eta}")
        self.eta = float(eta)

    def begin(self, run, steps: int):
        """Starts a run."""
        return _Implicit(self, run, Process(steps))


class _Implicit:
    def __init__(self, options: DDIM, run, process: Process):
        self.options, self.run, self.process = options, run, process

    def level(self, index: int) -> tuple[float, float]:
        """Signal and noise of the sample before step ``index``."""
        return self.process.level(index)

    def step(self, index: int, z: np.ndarray) -> np.ndarray:
        process, eta = self.process, self.options.eta
        i = len(process.times) - 1 - index
        predict = process.predict(i)
        start, _ = self.options.predicted(self.run, z, process.times[i], predict)
        bar, before = process.alphas_bar[i], process.bar_before(i)
        sigma = eta * np.sqrt((1 - before) / (1 - bar)) * np.sqrt(1 - bar / before)
        # The predicted noise, expressed through sample and predicted data.
        direction = np.sqrt(max(1 - before - sigma**2, 0))
        of_sample = direction * predict[0] / predict[1]
        z = np.float32(np.sqrt(before) - direction / predict[1]) * start + np.float32(of_sample) * z
        return z + np.float32(sigma) * self.run.step_noise(index) if i and eta else z
