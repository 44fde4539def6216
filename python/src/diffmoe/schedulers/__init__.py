"""Schedulers: from noise to data, with the same definitions as the Rust program (docs/models.md, "Samplers").

A scheduler is made for a run by ``begin(run, steps)``, which returns an object whose ``step(i, z)`` gives the sample after
step ``i``. ``run`` (:class:`diffmoe.sampling.Run`) knows the model, the labels, the guidance scale and the noise.
"""

from __future__ import annotations

from ..config import Config
from ..errors import SettingsError, one_of
from .ddpm import DDIM, DDPM, EpsilonOptions
from .flow import Euler, Heun
from .multistep import DPMSolver, UniPC
from .process import Process

#: The first of an objective is the default of models that recommend none.
ALL = (Euler, Heun, DDPM, DDIM, DPMSolver, UniPC)

__all__ = ["ALL", "DDIM", "DDPM", "DPMSolver", "Euler", "Heun", "Process", "UniPC", "default_of", "resolve"]


def suitable(objective: str) -> list[type]:
    """The schedulers that sample models of an objective."""
    return [kind for kind in ALL if objective in kind.objectives]


def default_of(config: Config):
    """The scheduler that a model recommends; the first of its objective where it recommends none of these."""
    kinds = suitable(config.objective)
    return next((kind for kind in kinds if kind.name == config.defaults["scheduler"]), kinds[0])()


def resolve(scheduler, config: Config, steps: int):
    """A scheduler from its name, or as it is, checked against a model and a number of steps."""
    if isinstance(scheduler, str):
        kind = next((kind for kind in ALL if kind.name == scheduler), None)
        if kind is None:
            raise SettingsError(f'unknown scheduler "{scheduler}": expected {one_of(kind.name for kind in ALL)}')
        scheduler = kind()
    elif isinstance(scheduler, type) and scheduler in ALL:
        scheduler = scheduler()
    if type(scheduler) not in ALL:
        raise SettingsError(f"a scheduler is a name or an object of diffmoe.schedulers, got {scheduler!r}")
    if config.objective not in scheduler.objectives:
        names = one_of(kind.name for kind in suitable(config.objective))
        raise SettingsError(f"{scheduler.name} does not sample {config.objective} models: choose {names}")
    if config.objective == "flow" and isinstance(scheduler, EpsilonOptions) and scheduler.options() != type(scheduler)().options():
        raise SettingsError(f"the options of {scheduler.name} have no effect on flow models: leave them out")
    most = 10_000 if config.objective == "flow" else scheduler.max_ddpm_steps
    if not 1 <= steps <= most:
        raise SettingsError(f"num_inference_steps must be 1–{most}, got {steps}")
    return scheduler
