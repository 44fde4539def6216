"""The error on held-out images, and the second moving average."""

import csv
import math

import pytest
import torch

from diffmoe.train import export, heldout
from diffmoe.train.data import Dataset, Labels
from helpers import run_tiny


class Answer(torch.nn.Module):
    """A model whose error is known: it returns its input, or the velocity that leads to black."""

    def __init__(self, prediction, answer):
        super().__init__()
        self.prediction, self.answer = prediction, answer

    def forward(self, z, t, labels):
        return self.answer(z, t[:, None, None, None]), None


def images(n=80):
    x = torch.randint(0, 256, (n, 3, 4, 4), generator=torch.Generator().manual_seed(1)).to(torch.uint8)
    return Dataset(x, [torch.zeros(n, dtype=torch.long)], [Labels("class", "y_embedder", ["a"])])


def test_known_answers_have_known_errors():
    h = heldout.HeldOut({"held_out": images()}, count=80, batch=32)
    x = torch.cat([p[0] for p in h.parts["held_out"]])
    noise = torch.cat([p[2] for p in h.parts["held_out"]])
    assert h.sizes() == {"held_out": 80}
    same = h.measure(Answer("data", lambda z, t: z))["held_out"]
    for t, e in zip(heldout.TIMES, same):
        assert e == pytest.approx(((1 - t) ** 2 * (noise - x).square().mean()).item(), rel=1e-4)
    black = h.measure(Answer("velocity", lambda z, t: (-1 - z) / (1 - t)))["held_out"]
    for e in black:
        assert e == pytest.approx((x + 1).square().mean().item(), rel=1e-3)
    assert heldout.figure([0.1, 0.001]) == pytest.approx(0.01) and math.isfinite(heldout.figure([0.0, 1.0]))


def test_two_measurements_are_equal():
    first, second = (heldout.HeldOut({"seen": images()}, count=20) for _ in range(2))
    noisy = Answer("data", lambda z, t: 0.5 * z)
    assert first.measure(noisy) == second.measure(noisy) and first.sizes() == {"seen": 20}


def test_a_run_writes_what_it_measures_and_keeps_two_averages(emoji_root):
    more = ["--set", "model.prediction=data", "--set", "train.judge_minutes=100", "--set", "train.ema_long=0.9997",
            "--set", "train.ema=0.9"]
    ck, _ = run_tiny(emoji_root, *more, "--set", "train.steps=40")
    path = emoji_root / "runs/tiny/heldout.csv"
    rows = list(csv.DictReader(path.open()))
    assert [(r["step"], r["weights"], r["set"], r["pictures"]) for r in rows] == [
        ("40", w, s, n) for w in ("ema", "ema_long") for s, n in (("held_out", "1"), ("seen", "11"))]
    run_tiny(emoji_root, *more, "--set", "train.steps=120", "--resume")
    rows = list(csv.DictReader(path.open()))
    seen = {(int(r["step"]), r["weights"]): float(r["figure"]) for r in rows if r["set"] == "seen"}
    assert seen[120, "ema"] < seen[40, "ema"], "it learned"
    figure, step, weights = heldout.best(str(path))
    assert figure == min(float(r["figure"]) for r in rows if r["set"] == "held_out") and step in (40, 120)
    long, short = (export.load_checkpoint(str(ck), w)[0] for w in ("ema_long", "ema"))
    assert not torch.equal(long.final_layer.linear.weight, short.final_layer.linear.weight)
    export.main([str(ck), str(emoji_root / "long.safetensors"), "--weights", "ema_long", "--data-root", str(emoji_root)])


def test_asking_for_an_average_that_was_not_kept_is_an_error(emoji_root):
    ck, _ = run_tiny(emoji_root, "--set", "train.steps=2")
    with pytest.raises(ValueError, match="ema_long"):
        export.load_checkpoint(str(ck), "ema_long")


def test_a_continued_run_drops_rows_of_steps_that_it_takes_again(tmp_path):
    path = str(tmp_path / "h.csv")
    errors, sizes = {"held_out": [0.1] * len(heldout.TIMES)}, {"held_out": 1}
    for step in (10, 20, 30, 20):
        heldout.append(path, step, step * 4, "ema", errors, sizes)
    assert [r["step"] for r in csv.DictReader(open(path))] == ["10", "20"]
