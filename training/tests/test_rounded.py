"""Tests of fine-tuning for int4."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from diffmoe.files import REFINER
from diffmoe.formats import decides_routing
from diffmoe.train import config as configs
from diffmoe.train import data, exported, heldout, rounded
from test_refined import files  # noqa: F401 - a fixture

SHIPPED = Path(__file__).parents[2] / "assets" / "emoji_256.safetensors"


def test_groups_are_rounded_by_their_largest_value():
    w = torch.zeros(2, 64)
    w[0, :4] = torch.tensor([-1.0, 0.5, 0.06, -0.06])
    w[0, 32] = 0.8
    w[1, 5] = 3e5  # more than f16 can hold; its factor, 37500, becomes 37504
    got = rounded.rounded(w)
    step = 1 / 8
    assert got[0, :4].tolist() == [-8 * step, 4 * step, 0.0, 0.0] and got[0, 32].item() == pytest.approx(0.8, rel=1e-3)
    assert got[1, 5].item() == 8 * 37504 and got[1].count_nonzero() == 1
    dense = torch.randn(3, 5, 96, generator=torch.Generator().manual_seed(1))
    once = rounded.rounded(dense)
    assert torch.equal(rounded.rounded(once), once)
    largest = dense.unflatten(-1, (-1, 32)).abs().amax(-1, keepdim=True)
    # Codes end at 7, so values of the sign opposite to the largest one's may lose a whole step.
    assert ((once - dense).unflatten(-1, (-1, 32)).abs() <= largest / 8 * 1.001).all()


def test_the_shipped_file_keeps_its_numbers():
    model, _ = exported.load_exported(SHIPPED)
    stored = {name.removeprefix(REFINER) for name, w in load_file(SHIPPED).items() if w.dtype == np.uint8}
    for part in (model.base, model.refiner):
        found = rounded.matrices(part)
        assert len(found) == sum(".experts." not in name for name in stored) + 2 * len(part.moe_layers())
        for w in found:
            assert torch.equal(rounded.rounded(w), w)


def test_rounding_is_undone_and_passes_gradients():
    model, _ = exported.load_exported(SHIPPED)
    part = rounded.Part(model.base, 0.0, 0.5)
    w = part.rounding.weights[0]
    with torch.no_grad():
        w += 1e-4  # of less than half a step, mostly
    before = w.detach().clone()
    with part.rounding:
        assert not torch.equal(w, before)
        (w.square().sum() / 2).backward()
        inside = w.detach().clone()
    assert torch.equal(w, before) and torch.equal(w.grad, inside)


def test_the_rounded_model_learns_its_teachers_answers(files):  # noqa: F811
    root, both = files[0], files[3]
    c = configs.load(root / "run.toml", ["model.prediction=data"])
    dataset = data.load(c.data, str(root))
    model, _ = exported.load_exported(both)
    parts = rounded.parts_of(model)
    assert [(p.first, p.last) for p in parts] == [(0.0, 0.5), (0.5, 1.0)]
    before = {name: w.copy() for name, w in rounded.arrays_of(model).items()}
    x, labels = dataset.batch(torch.arange(len(dataset)))
    sample = x, labels, torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    errors = lambda: rounded.report(parts, sample)
    first = errors()
    assert [t for t, _ in first] == list(heldout.TIMES)
    rounded.fine_tune(parts, dataset, c.train, 16, 2e-3, steps=60)
    last = errors()
    # At some times, a few tokens go to other experts with rounded weights.
    mean = lambda errors: heldout.figure([e for _, e in errors])
    assert mean(last) < 0.9 * mean(first), (first, last)
    after = rounded.arrays_of(model)
    kept = [name for name in before if decides_routing(name) or name.endswith("pos_embed")]
    assert kept and all(np.array_equal(before[name], after[name]) for name in kept)
    assert not np.array_equal(before["blocks.1.mlp.experts.0.fc1.weight"], after["blocks.1.mlp.experts.0.fc1.weight"])


def test_the_command_writes_a_file_of_the_same_model(files, capsys):  # noqa: F811
    root, both = files[0], files[3]
    out = str(root / "out.safetensors")
    config = root / "fine.toml"
    config.write_text((root / "run.toml").read_text().replace("[model]", '[model]\nprediction = "data"'))
    asked = ["--data-root", str(root), "--minutes", "0.02", "--batch", "8"]
    rounded.main([str(config), both, out, *asked])
    assert exported.read_description(out) == exported.read_description(both)
    said = capsys.readouterr().out
    assert "steps of 8 images" in said
    stored = load_file(out)
    model, _ = exported.load_exported(out)
    for part, name in ((model.base, "blocks.0.attn.qkv.weight"), (model.refiner, "refiner.blocks.0.attn.qkv.weight")):
        assert stored[name].dtype == np.uint8
        assert all(torch.equal(rounded.rounded(w), w) for w in rounded.matrices(part))
    rounded.main([str(config), both, out, *asked, "--dtype", "f32"])
    assert {str(w.dtype) for w in load_file(out).values()} == {"float32"}
