"""Tests of files with a refiner: which of the two models computes each step, and evaluation."""

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import load_file as arrays_of
from safetensors.torch import load_file

from diffmoe import ModelError, formats, writing
from diffmoe.train import config as configs
from diffmoe.train import data, describe, export, exported, heldout, loop, objective, sample, sampler
from diffmoe.train.evaluate import __main__ as command
from diffmoe.train.evaluate import emoji, generate, public
from diffmoe.train.start import initialise
import reference_sampler
from test_judges import fake_net

STEPS, BASE_STEPS = 6, 3
ASKED = [torch.tensor([0, 3]), torch.tensor([1, 8])]


def random_file(root, name, seed, *settings):
    """Random weights for the made-up set, exported; (description, tensors)."""
    c = configs.load(root / "run.toml", ["model.prediction=data", *settings])
    dataset = data.load(c.data, str(root))
    torch.manual_seed(seed)
    model = loop.build(c, dataset.labels).eval()
    for w in model.parameters():
        if w.requires_grad:
            torch.nn.init.normal_(w, std=0.1)
    export.recalibrate(model, export.noised_batches(dataset, [4, 8], c, 4, 32), 1)
    path = str(root / name)
    writing.write(path, describe.document(c, dataset.labels, {"train_images": 5}), formats.encode(export.folded(model), "int8"))
    return exported.read_description(path), arrays_of(path)


@pytest.fixture
def files(emoji_root):
    """(folder, base, refiner, both in one file); patches of 4 and of 2 pixels."""
    base, of_base = random_file(emoji_root, "base.safetensors", 1, "model.patch_size=4")
    fine, of_fine = random_file(emoji_root, "fine.safetensors", 2, "model.hidden_size=32", "model.detail_head=4")
    both = {**base, "refiner": {"from": 0.5, "params": fine["params"]}}
    writing.write(emoji_root / "both.safetensors", both, {**of_base, **{f"refiner.{k}": w for k, w in of_fine.items()}})
    return emoji_root, *(str(emoji_root / f"{name}.safetensors") for name in ("base", "fine", "both"))


def noise():
    return torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(3))


def by_hand(base, fine, solver, guidance, shifts):
    """The definition of Euler's and Heun's method, with the model of each step."""
    z, h = noise(), 1 / STEPS
    for i in range(STEPS):
        model, more = base if i < BASE_STEPS else fine, {"shifts": shifts, "shifts_from": 0.3}
        v = reference_sampler.velocity(model, z, i * h, ASKED, guidance, **more)
        if solver == "heun" and i + 1 < STEPS:
            v = (v + reference_sampler.velocity(model, z + h * v, (i + 1) * h, ASKED, guidance, **more)) / 2
        z = z + h * v
    return z


@pytest.mark.parametrize("solver", ["euler", "heun"])
def test_the_refiner_takes_the_last_steps(files, solver):
    base, fine, both = (exported.load_exported(path)[0] for path in files[1:])
    for guidance, shifts in ((1.0, reference_sampler.STILL), (2.0, ((0, 0), (1, 1)))):
        got = sampler.sample(both, noise(), ASKED, STEPS, guidance, solver, cycle_spin=(len(shifts), 0.3))
        torch.testing.assert_close(got, by_hand(base, fine, solver, guidance, shifts), rtol=0, atol=1e-5)
        assert (got - by_hand(base, base, solver, guidance, shifts)).abs().max() > 1e-2
    assert torch.equal(sample.draw(both, ASKED, STEPS, 1.0, solver), sample.draw(both, ASKED, STEPS, 1.0, solver, batch=2))


def test_outside_of_steps_every_sample_has_the_model_of_its_time(files):
    base, fine, both = (exported.load_exported(path)[0] for path in files[1:])
    sampler.sample(both, noise(), ASKED, 2)
    for time, model in ((0.3, base), (0.499, base), (0.499999, fine), (0.5, fine), (0.9, fine)):
        t = torch.full((2,), time)
        assert torch.equal(both(noise(), t, ASKED)[0], model(noise(), t, ASKED)[0])
    both.set_rule("token")
    t = torch.tensor([0.7, 0.2])
    for model, i in ((base, 1), (fine, 0)):
        model.set_rule("token")
        alone = model(noise()[i : i + 1], t[i : i + 1], [y[i : i + 1] for y in ASKED])[0]
        torch.testing.assert_close(both(noise(), t, ASKED)[0][i : i + 1], alone, rtol=0, atol=1e-5)
    own = [data.load(configs.load(files[0] / "run.toml").data, str(files[0]))]
    h = heldout.HeldOut({"seen": own[0]}, 8)
    errors = [h.measure(model)["seen"] for model in (base, fine, both)]
    early = sum(t < 0.5 for t in heldout.TIMES)
    assert errors[2] == errors[0][:early] + errors[1][early:]
    losses = [generate.loss_by_noise(model, own[0], 8, 0)["loss"] for model in (base, fine, both)]
    assert [losses[2][str(t)] for t in objective.TIMES] == [losses[t >= 0.5][str(t)] for t in objective.TIMES]


def test_compute_is_that_of_the_model_which_computes(files):
    base, fine, both = (exported.load_exported(path)[0] for path in files[1:])
    s = {"steps": 2, "guidance": 1.5, "solver": "euler", "rule": "token", "seed": 4, "batch": 2}
    x, c, _ = generate.generate(both, ASKED, s)
    # The pass of each model by hand: the second begins where Euler's step with the first ends.
    z = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(4))
    counts = []
    for i, model in enumerate((base, fine)):
        model.set_rule("token")
        counting = generate.Counting(model)
        counting.prediction = "data"
        z = z + 0.5 * reference_sampler.velocity(counting, z, 0.5 * i, ASKED, 1.5)
        counts.append(counting.total)
    torch.testing.assert_close(c, sum(counts) / 2)
    assert ((x - z.clamp(-1, 1)) * 127.5).abs().max() < 0.5 + 1e-3
    # All records are gone.
    assert all(m.record is None for model in (both.base, both.refiner) for m in model.moe_layers().values())


def test_a_run_does_not_start_from_two_models(files):
    c = configs.load(files[0] / "run.toml", ["model.prediction=data"])
    dataset = data.load(c.data, str(files[0]))
    with pytest.raises(ValueError, match="has a refiner"):
        initialise(loop.build(c, dataset.labels), dataset, files[3])


def test_models_that_do_not_fit_are_refused(files):
    root, *paths = files
    (base, of_base), (fine, of_fine) = ((exported.read_description(path), arrays_of(path)) for path in paths[:2])
    for first, second, start in ((fine, base, 0.5), (base, fine, 0.0), (base, fine, 1.0)):
        wrong, tensors = {**first, "refiner": {"from": start, "params": second["params"]}}, of_base if first is base else of_fine
        with pytest.raises(ModelError, match="a refiner"):
            writing.write(root / "wrong.safetensors", wrong, tensors)
    assert exported.load_exported(paths[2])[0].patch_size == 2


def test_judges_and_showcase_take_such_a_file(files, monkeypatch):
    root, base, _, both = files
    monkeypatch.setattr(emoji, "load", lambda meta, r, real=emoji.load: real(meta, r, "e/emoji.npz", "e/labels.json"))
    monkeypatch.setattr(public, "PublicNet", lambda: fake_net)
    out = root / "judges.json"
    command.main(["judges", "--weights", base, both, "--out", str(out), "--data-root", str(root), "--steps", "2", "--seen-pairs",
                  "6", "--error-images", "4", "--shifts", "2", "--shifts-from", "0.5", "--solver", "heun"])
    _, first, second = json.loads(out.read_text())["columns"]
    early = sum(t < 0.5 for t in heldout.TIMES)
    assert second["settings"]["cycle_spin"] == [2, 0.5] and second["C"] > 0
    assert first["error"]["seen"][:early] == second["error"]["seen"][:early]
    assert first["error"]["seen"][early:] != second["error"]["seen"][early:]
    names = set(load_file(both))
    command.main(["showcase", "--weights", both, "--data-root", str(root), "--seeds", "1", "--levels", "255", "--write"])
    with safe_open(both, "pt") as f:
        assert set(f.keys()) == names
    assert {"showcase"} < set(exported.read_description(both)["defaults"])
    sample.main([both, str(root / "x.png"), "--labels", "red ball,noto", "--steps", "2"])
