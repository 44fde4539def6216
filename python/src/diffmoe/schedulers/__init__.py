"""Schedulers, with the same definitions as in the Rust program (docs/models.md, "Samplers").

``begin(run, steps)`` starts a run and returns an object whose ``step(i, z)`` gives the sample after step ``i``. ``run``
(:class:`diffmoe.sampling.Run`) evaluates the model and provides the guidance scale and noise.
"""

from __future__ import annotations

from ..config import Config
from ..errors import SettingsError, one_of
from .ddpm import DDIM, DDPM, EpsilonOptions
from .flow import Euler, Heun
from .multistep import DPMSolver, UniPC
from .process import Process

#: The first one for an objective is its default.
ALL = (Euler, Heun, DDPM, DDIM, DPMSolver, UniPC)

__all__ = ["ALL", "DDIM", "DDPM", "DPMSolver", "Euler", "Heun", "Process", "UniPC", "default_of", "resolve"]


def suitable(objective: str) -> list[type]:
    """Schedulers for an objective."""
    return [kind for kind in ALL if objective in kind.objectives]


def default_of(config: Config):
    """The scheduler that a model recommends, or the default of its objective."""
    kinds = suitable(config.objective)
    return next((kind for kind in kinds if kind.name == config.defaults["scheduler"]), kinds[0])()


def resolve(scheduler, config: Config, steps: int):
    """A scheduler by name or as an object, validated for a model and a number of steps."""
    if isinstance(scheduler, str):
        kind = next((kind for kind in ALL if kind.name == scheduler), None)
        if kind is None:
            raise SettingsError(f'unknown scheduler "{scheduler}": expected {one_of(kind.name for kind in ALL)}')
        scheduler = kind()
    elif isinstance(scheduler, type) and scheduler in ALL:
        scheduler = scheduler()
    if type(scheduler) not in ALL:
        raise SettingsError(f"scheduler must be a name or an object from diffmoe.schedulers, got {scheduler!r}")
    if config.objective not in scheduler.objectives:
        names = one_of(kind.name for kind in suitable(config.objective))
        raise SettingsError(f"{scheduler.name} does not support {config.objective} models: choose {names}")
    if (
        config.objective == "flow"
        and isinstance(scheduler, EpsilonOptions)
        and scheduler.options() != type(scheduler)().options()
    ):
        raise SettingsError(f"the options of {scheduler.name} have no effect on flow models: remove them")
    most = 10_000 if config.objective == "flow" else scheduler.max_ddpm_steps
    if not hasattr(steps, "__index__") or not 1 <= steps <= most:
        raise SettingsError(f"num_inference_steps must be 1–{most}, got {steps}")
    return scheduler
