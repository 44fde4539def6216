"""Schedulers on analytic models."""

from types import SimpleNamespace

import numpy as np
import pytest

from diffmoe import Config, SettingsError, schedulers
from diffmoe.schedulers import DDIM, DDPM, DPMSolver, Euler, Heun, Process, UniPC

PARAMS = {"input_size": 2, "num_classes": 1, "patch_size": 1, "depth": 1, "hidden_size": 4, "num_heads": 1}


def config(objective, **params):
    return Config.from_dict({"kind": "dense", "t_kind": objective, "params": {**PARAMS, **params}})


def walk(scheduler, of, steps, model, guidance=1.0, taken=None):
    """The sample after each step, starting from 1. ``model`` is a function of sample, time and branch."""

    def forward(z, time, guided=True):
        out = np.float32(model(z, np.float32(time), guided))
        return np.concatenate([out] * (of.out_channels // of.in_channels), axis=1)

    def guide(z, time):
        answer = forward(z, time)[:, :4]
        return answer if guidance == 1 else (1 - guidance) * forward(z, time, False)[:, :4] + guidance * answer

    joint = lambda z, time: (forward(z, time), forward(z, time, False))  # noqa: E731
    noise = lambda step: np.zeros((1, 4, 1, 1), np.float32)  # noqa: E731
    run = SimpleNamespace(config=of, guidance=guidance, forward=forward, guided=guide, joint=joint, step_noise=noise,
                          is_guided=lambda time: guidance != 1)
    z, out = np.ones((1, 4, 1, 1), np.float32), []
    stepper = scheduler.begin(run, steps)
    for i in range(steps if taken is None else taken):
        z = stepper.step(i, z)
        out.append(float(z[0, 0, 0, 0]))
    return out


FLOW = config("flow", learn_sigma=False)
DATA = config("flow", learn_sigma=False, prediction="data")
REVERSED = config("flow", prediction="reversed")
NOISE = config("ddpm", learn_sigma=False)


def test_processes_match_the_official_code():
    all_steps, ten = Process(1000), Process(10)
    assert ten.times.tolist() == [0, 111, 222, 333, 444, 555, 666, 777, 888, 999]
    assert Process(50).times[:7].tolist() == [0, 20, 41, 61, 82, 102, 122]
    assert Process(250).times[-3:].tolist() == [991, 995, 999]
    for i, bar in [(0, 0.9999), (1, 0.999780092), (500, 0.0777966584), (999, 4.03582977e-5)]:
        assert all_steps.alphas_bar[i] == pytest.approx(bar, rel=5e-9)
    for i, log in [(0, -9.81672514), (1, -9.81672514), (2, -9.3671215), (999, -3.91202383)]:
        assert all_steps.log_posterior_variance(i) == pytest.approx(log, rel=5e-9)
    assert Process(250).betas[249] == pytest.approx(7.75193450e-2, rel=5e-9)


@pytest.mark.parametrize(
    ("scheduler", "three", "ten"),
    [
        (
            DPMSolver(),
            [0.01260382, 2.1665812, 3.3064983],
            [0.8978184, 0.8342816, 0.7955092, 0.7628961, 0.7284827, 0.68554544, 0.62756306, 0.5515561, 0.46557188, 0.32839185],
        ),
        (
            UniPC(),
            [0.01260382, 2.6107802, 4.8823876],
            [0.8978184, 0.8596527, 0.8231512, 0.76693314, 0.7135124, 0.66250354, 0.6020581, 0.52707493, 0.44359058, 0.3134306],
        ),
    ],
)
def test_multistep_samples_are_those_of_diffusers(scheduler, three, ten):
    """Printed by DPMSolverMultistepScheduler and UniPCMultistepScheduler of diffusers 0.42 (see src/scheduler)."""
    model = lambda x, t, _: np.sin(1.3 * x) + 0.2 * x * t / 1000 - 0.1  # noqa: E731
    assert np.allclose(walk(scheduler, NOISE, 3, model), three, atol=5e-5)
    assert np.allclose(walk(scheduler, NOISE, 10, model), ten, atol=5e-6)


@pytest.mark.parametrize(("scheduler", "order"), [(Euler(), 1), (Heun(), 2), (DPMSolver(), 2), (UniPC(), 2)])
def test_orders_of_accuracy(scheduler, order):
    exact = np.exp(np.sin(3) / 3)
    errors = [abs(walk(scheduler, FLOW, n, lambda z, t, _: z * np.cos(3 * t))[-1] - exact) for n in (20, 40)]
    assert np.log2(errors[0] / errors[1]) > order - 0.3


@pytest.mark.parametrize("scheduler", [Euler(), Heun(), DPMSolver(), UniPC()])
def test_a_prediction_of_data_leads_where_its_velocity_does(scheduler):
    velocity = lambda z, t, guided: np.cos(t * (2.0 if guided else 0.5)) - 0.3 * z  # noqa: E731
    data = lambda z, t, guided: z + (1 - t) * velocity(z, t, guided)  # noqa: E731
    for guidance in (1.0, 2.5):
        # The last Heun step differs between the two, so it is left out.
        wanted, got = (walk(scheduler, of, 7, m, guidance, 6) for of, m in ((FLOW, velocity), (DATA, data)))
        assert np.allclose(got, wanted, atol=2e-5)
    end = walk(Heun(), DATA, 5, lambda z, t, _: 0.2 * z + t)
    assert end[-1] == pytest.approx(0.2 * end[-2] + 0.8, abs=1e-6), "ends at the predicted data"


@pytest.mark.parametrize("scheduler", [Euler(), Heun(), DPMSolver(), UniPC()])
def test_the_opposite_velocity_leads_where_the_velocity_does(scheduler):
    velocity = lambda z, t, guided: np.cos(t * (2.0 if guided else 0.5)) - 0.3 * z  # noqa: E731
    for guidance in (1.0, 2.5):
        wanted = walk(scheduler, FLOW, 7, velocity, guidance)
        got = walk(scheduler, REVERSED, 7, lambda *of: -velocity(*of), guidance)
        assert np.allclose(got, wanted, atol=1e-6)


def test_ddim_moves_along_exact_noise_and_ddpm_ends_at_the_data():
    def model(x, time, _):
        bar = Process(1000).alphas_bar[int(time)]
        return (x - np.sqrt(bar) * 0.3) / np.sqrt(1 - bar)

    for scheduler in (DDIM(), DDPM(), DDIM(eta=1.0), DPMSolver(), UniPC()):
        assert walk(scheduler, NOISE, 20, model)[-1] == pytest.approx(0.3, abs=1e-4), scheduler.name
    assert walk(DDIM(clip=True), NOISE, 20, lambda *_: -9 * np.ones((1, 4, 1, 1)))[-1] <= 1


def test_guided_channels():
    """Guidance changes three of four channels by default."""
    model = lambda x, t, guided: np.ones_like(x) * (0.5 if guided else 0.1)  # noqa: E731
    for name, guided in (("3", [True, True, True, False]), ("all", [True] * 4)):
        z = {}
        for guidance in (1.0, 2.0):
            run = SimpleNamespace(config=NOISE, guidance=guidance, forward=lambda z, t: model(z, t, True))
            run.is_guided = lambda time, guidance=guidance: guidance != 1
            run.joint = lambda z, t: (model(z, t, True), model(z, t, False))
            z[guidance], _ = DDIM(name).predicted(run, np.ones((1, 4, 1, 1), np.float32), 500, (1.0, 1.0))
        assert (z[1.0] != z[2.0]).ravel().tolist() == guided


def test_invalid_choices_are_refused():
    for scheduler, of, steps, reason in [
        ("rk4", FLOW, 3, 'unknown scheduler "rk4": expected euler, heun'),
        ("euler", NOISE, 3, "euler does not support ddpm models: choose ddpm, ddim"),
        ("ddim", FLOW, 3, "choose euler, heun, dpmpp_2m or unipc"),
        ("heun", FLOW, 0, "1–10000, got 0"),
        ("ddpm", NOISE, 1001, "1–1000"),
        (DPMSolver(), NOISE, 1000, "1–999"),
        (DPMSolver(clip=True), FLOW, 3, "have no effect on flow models"),
        (7, FLOW, 3, "scheduler must be a name or an object"),
    ]:
        with pytest.raises(SettingsError) as caught:
            schedulers.resolve(scheduler, of, steps)
        assert reason in str(caught.value)
    with pytest.raises(SettingsError, match="eta must be 0–1"):
        DDIM(eta=1.5)
    with pytest.raises(SettingsError, match="guided_channels must be 3 or all"):
        DDPM("4")
