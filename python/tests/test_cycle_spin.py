"""Cycle spinning: with Euler's method it is the mean of plain steps from shifted samples, shifted back."""

import numpy as np
import pytest
from conftest import Case, error

from diffmoe import schedulers
from diffmoe.routing import Routing
from diffmoe.sampling import Run, sample
from diffmoe.settings import SettingsError, cycle_spin

STEPS = 4


def euler(case, spin):
    run = Run(case.pipe.model, case.labels, guidance=1.5, routing=Routing("pool"), cycle_spin=spin)
    scheduler = schedulers.resolve("euler", case.pipe.config, STEPS)
    return run, scheduler


@pytest.mark.parametrize("name", ["diffmoe_flow", "detail_head"])
def test_steps_are_means_over_shifts(name):
    case = Case(name)
    noise, patch = case.io["x"], case.pipe.config.patch_size
    run, scheduler = euler(case, (2, 0.5))
    got = sample(run, scheduler, STEPS, noise)
    plain, _ = euler(case, (1, 0.0))
    stepper, z = scheduler.begin(plain, STEPS), noise
    for i in range(STEPS):
        before, z = z, stepper.step(i, z)
        if i >= 2:
            by = patch // 2
            moved = stepper.step(i, np.roll(before, (by, by), (2, 3)))
            z = (z + np.roll(moved, (-by, -by), (2, 3))) / 2
    assert error(got, z) < 1e-5
    assert error(got, sample(plain, scheduler, STEPS, noise)) > 1e-3
    assert [p.step for p in run.passes] == [i for i in range(STEPS) for _ in range(2)]


def test_settings():
    config = Case("diffmoe_flow").pipe.config
    assert cycle_spin(config, None) == (1, 0.85)
    assert cycle_spin(config, 2) == (2, 0.85)
    assert cycle_spin(config, (2, 0.5)) == (2, 0.5)
    config.defaults["cycle_spin"] = "2,0.7"
    assert cycle_spin(config, None) == (2, 0.7)
    for wrong in (0, 9, 2.0, (2, -0.1), (2, 1.5)):
        with pytest.raises(SettingsError, match="cycle_spin must be"):
            cycle_spin(config, wrong)
    with pytest.raises(SettingsError, match="patches of at least 8"):
        cycle_spin(config, 8)
    with pytest.raises(SettingsError, match="flow model"):
        cycle_spin(Case("diffmoe_ddpm").pipe.config, 2)
