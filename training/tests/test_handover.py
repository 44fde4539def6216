"""Tests of training a refiner on steps of its base model."""

import pytest
import torch

from diffmoe.train import config as configs
from diffmoe.train import data, exported, flow, handover, loop
import reference_sampler
from test_refined import files  # noqa: F401 - a fixture

FINE = ["model.prediction=data", "model.hidden_size=32"]


def made(root, path, share=1.0, until=1.0):
    dataset = data.load(configs.load(root / "run.toml", FINE).data, str(root))
    return handover.Handover(path, dataset.labels, share, until, 2.0)


def inputs(n=2):
    g = torch.Generator().manual_seed(9)
    x, noise = (torch.randn(n, 3, 8, 8, generator=g) for _ in range(2))
    return x, noise, torch.linspace(0.5, 0.9, n), [torch.tensor([0, 3] * (n // 2)), torch.tensor([1, 8] * (n // 2))]


@pytest.mark.parametrize("file", ["base", "both"])
def test_the_base_model_takes_a_guided_step(files, file):  # noqa: F811
    root, base = files[0], exported.load_exported(files[1])[0]
    base.set_rule("token")
    x, noise, t, labels = inputs()
    hand = made(root, str(root / f"{file}.safetensors"))
    torch.manual_seed(1)
    got = hand.noised(x, noise, t, labels)
    torch.manual_seed(1)
    torch.rand_like(t)
    for i, s in enumerate((t * torch.rand_like(t)).tolist()):
        one = slice(i, i + 1)
        z = flow.mix(x[one], noise[one], torch.tensor([s]))
        want = z + (t[i] - s) * reference_sampler.velocity(base, z, s, [y[one] for y in labels], 2.0)
        torch.testing.assert_close(got[one], want, rtol=0, atol=2e-5)
        assert (got[one] - flow.mix(x[one], noise[one], t[one])).abs().max() > 1e-2


def test_only_some_samples_are_steps(files):  # noqa: F811
    root, base = files[:2]
    x, noise, t, labels = inputs(40)
    plain = flow.mix(x, noise, t)
    same = lambda z: [torch.equal(*pair) for pair in zip(z, plain)]
    assert all(same(made(root, base, share=0.0).noised(x, noise, t, labels)))
    by_time = same(made(root, base, until=0.7).noised(x, noise, t, labels))
    assert by_time == (t >= 0.7).tolist()
    torch.manual_seed(2)
    assert 8 < sum(same(made(root, base, share=0.5).noised(x, noise, t, labels))) < 32


def test_other_labels_are_refused(files):  # noqa: F811
    root, base = files[:2]
    dataset = data.load(configs.load(root / "run.toml", FINE).data, str(root))
    dataset.labels[0].values = dataset.labels[0].values[::-1]
    with pytest.raises(ValueError, match="other labels"):
        handover.Handover(base, dataset.labels, 0.5, 0.7, 2.0)


def test_a_run_trains_on_steps_of_the_file(files):  # noqa: F811
    root, base = files[:2]
    settings = [f"train.refines={base}", "train.refines_until=1", "train.steps=2", "model.prediction=data"]
    trainer = loop.Trainer(configs.load(root / "run.toml", settings), str(root), str(root / "runs/refiner"), resume=False)
    given, seen, before = [], [], trainer.handover.noised
    trainer.handover.noised = lambda *parts: given.append(before(*parts)) or given[-1]
    trainer.run = lambda z, *more: seen.append(z) or trainer.model(z, *more)
    trainer.train()
    assert len(seen) == 2 and all(map(torch.equal, seen, given))


@pytest.mark.parametrize("setting, message", [("train.refines_share=2", "refines_share"), ("text.hidden_size=32", "labels")])
def test_settings_that_do_not_fit_are_refused(files, setting, message):  # noqa: F811
    with pytest.raises(ValueError, match=message):
        configs.load(files[0] / "run.toml", ["model.prediction=data", f"train.refines={files[1]}", setting])
