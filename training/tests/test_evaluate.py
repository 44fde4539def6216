"""The evaluation: statistics, judges, and one run from end to end."""

import io
import json
import math

import numpy as np
import pytest
import torch
from PIL import Image

from diffmoe import formats, sampling, writing
from diffmoe.train import config as configs
from diffmoe.train import data, describe, export, exported, loop
from diffmoe.train.evaluate import __main__ as command
from diffmoe.train.evaluate import emoji, eurosat, generate, probe, public, render, retrieval, stats

from helpers import run_tiny


def test_wilson_interval():
    # Brown, Cai and DasGupta 2001: wide at the ends, never outside [0, 1].
    lo, hi = stats.wilson(8, 10)
    assert lo == pytest.approx(0.4902, abs=1e-4) and hi == pytest.approx(0.9433, abs=1e-4)
    assert stats.wilson(0, 20)[0] == 0 and stats.wilson(20, 20)[1] == pytest.approx(1)


def test_redrawing_groups_widens_the_interval_when_groups_agree():
    hits = torch.tensor([1] * 80 + [0] * 80)
    lo, hi = stats.over_groups(hits, torch.arange(160) // 20)  # eight groups, all right or all wrong
    assert hi - lo > 2 * (stats.wilson(80, 160)[1] - stats.wilson(80, 160)[0])
    lo, hi = stats.over_groups(hits, torch.arange(160) % 80)  # every group half right
    assert lo == hi == 0.5


def test_frechet_distance_of_known_gaussians():
    a = (torch.zeros(2).double(), torch.diag(torch.tensor([1.0, 4.0])).double())
    b = (torch.tensor([3.0, 0.0]).double(), torch.diag(torch.tensor([9.0, 1.0])).double())
    assert stats.frechet(a, b) == pytest.approx(9 + (1 - 3) ** 2 + (2 - 1) ** 2)
    assert stats.frechet(a, a) == pytest.approx(0, abs=1e-9)
    turn = torch.tensor([[0.6, -0.8], [0.8, 0.6]]).double()
    turned = [(turn @ m, turn @ s @ turn.T) for m, s in (a, b)]
    assert stats.frechet(*turned) == pytest.approx(14)


def test_nearest_image():
    gallery = torch.rand(20, 3, 8, 8) * 2 - 1
    index, distance = retrieval.nearest(gallery[[3, 7]] + 0.1, gallery)
    assert index.tolist() == [3, 7]
    torch.testing.assert_close(distance, torch.full((2,), 12.75), rtol=1e-3, atol=1e-3)


def coloured(n, g):
    """Squares in four colours and two sizes: two label columns."""
    colour, size = torch.randint(0, 4, (n,), generator=g), torch.randint(0, 2, (n,), generator=g)
    x = torch.ones(n, 3, 16, 16)
    for i in range(n):
        r = 3 + 3 * int(size[i])
        x[i, :, 8 - r : 8 + r, 8 - r : 8 + r] = torch.tensor([[1, -1, -1], [-1, 1, -1], [-1, -1, 1], [-1, -1, -1]])[
            colour[i]].float()[:, None, None]
    return x, [colour, size]


def test_the_probe_learns_and_is_kept(tmp_path):
    g = torch.Generator().manual_seed(0)
    x, columns = coloured(96, g)
    clean, moved = probe.cross_validate(x, columns, [4, 2], "jitter", 60, folds=2, batch=32, width=4)
    assert (clean[0] == columns[0]).float().mean() > 0.9 and (moved[0] == columns[0]).float().mean() > 0.8
    judge, _ = probe.train(x, columns, [4, 2], "jitter", 60, batch=32, width=4)
    probe.save(judge, {"a": 1}, tmp_path / "p.pt")
    again, report = probe.load(tmp_path / "p.pt")
    assert report == {"a": 1} and torch.equal(again(x)[1], judge(x)[1])
    # Labels that have nothing to do with the images are not learned.
    noise = [torch.randint(0, 4, (96,), generator=g)]
    clean, _ = probe.cross_validate(x, noise, [4], "jitter", 60, folds=2, batch=32, width=4)
    assert (clean[0] == noise[0]).float().mean() < 0.5


@pytest.fixture
def weights(emoji_root):
    """Random weights for the made-up set, exported."""
    c = configs.load(emoji_root / "run.toml")
    dataset = data.load(c.data, str(emoji_root))
    torch.manual_seed(1)
    model = loop.build(c, dataset.labels).eval()
    for w in model.parameters():
        if w.requires_grad:
            torch.nn.init.normal_(w, std=0.1)
    batches = export.noised_batches(dataset, [4, 8], c, 4, 32)
    export.recalibrate(model, batches, 1)
    path = str(emoji_root / "w.safetensors")
    writing.write(path, describe.document(c, dataset.labels, {"train_images": 5}), formats.encode(export.folded(model), "int8"))
    return emoji_root, path


def test_images_do_not_depend_on_the_batch_and_their_compute_is_counted(weights):
    model, _ = exported.load_exported(weights[1])
    s = {"steps": 3, "guidance": 2.0, "solver": "heun", "rule": "token", "seed": 4}
    columns = [[0, 1, 2, 3, 4, 0], [0, 1, 2, 0, 1, 8]]
    x, c, _ = generate.generate(model, columns, {**s, "batch": 6})
    y, d, _ = generate.generate(model, columns, {**s, "batch": 2})
    assert (x - y).abs().max() <= 1.01 / 127.5 and (x != y).float().mean() < 0.01
    torch.testing.assert_close(c, d, rtol=0, atol=0.02)
    assert x.abs().max() <= 1 and len(c.unique()) > 1
    # One Euler step without guidance is one forward pass: the same count by hand.
    x, c, _ = generate.generate(model, columns, {**s, "steps": 1, "guidance": 1.0, "solver": "euler", "batch": 6})
    z = torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(4))
    mean, _ = export.capacities(model, z, torch.zeros(6), [torch.tensor(v) for v in columns])
    assert c.mean().item() == pytest.approx(mean, abs=1e-5)


def test_pairs_can_be_drawn_at_random():
    d = data.Dataset(torch.zeros(9, 3, 2, 2), [torch.arange(9) // 3, torch.arange(9) % 3], [])
    a, b = emoji.pairs_of(d, 2)
    assert len(a) == 18 and a[:4].tolist() == [0, 0, 0, 0] and b[:4].tolist() == [0, 0, 1, 1]
    a, b = emoji.pairs_of(d, 1, 4)
    assert len({(int(i), int(j)) for i, j in zip(a, b)}) == 4


def test_the_judgement_is_right_about_right_and_wrong_images(emoji_root):
    parts = [data.load_emoji(emoji_root / "e/emoji.npz", emoji_root / "e/labels.json", 8,
                             ["red ball", "green ball", "blue ball", "red box"], 1, held_out=h) for h in (False, True)]
    x, columns, held = emoji.real(parts)
    assert len(x) == 12 and held.sum() == 1

    class Oracle:
        """Answers from the gallery, so that only the counting is tested."""

        def name(self, images, asked):
            i = retrieval.nearest(images, x)[0]
            return [c[i] for c in columns]

    good = emoji.judge(Oracle(), x, columns, x, columns, held)
    assert good["probe"]["both"]["share"] == good["nearest"]["both"]["share"] == 1
    assert good["nearest_is_held_out"]["hits"] == 1
    wrong = emoji.judge(Oracle(), x, [(columns[0] + 1) % 4, columns[1]], x, columns, held)
    assert wrong["probe"]["subject"]["hits"] == 0 and wrong["probe"]["style"]["share"] == 1


def test_one_command_from_weights_to_tables(weights, monkeypatch):
    root, path = weights
    for name, value in (("SUBJECT_PASSES", 20), ("FOLDS", 2), ("STYLE_STEPS", 20), ("STYLE_FOLDS", 2)):
        monkeypatch.setattr(emoji, name, value)
    monkeypatch.setattr(emoji, "load", lambda meta, r, real=emoji.load: real(meta, r, "e/emoji.npz", "e/labels.json"))
    out = root / "results/emoji.json"
    command.main(["emoji", "--weights", path, "--out", str(out), "--data-root", str(root), "--steps", "2",
                  "--per-held-out", "3", "--probes", str(root / "probes"), "--images", str(root / "images"),
                  "--sheet", str(root / "sheet.png")])
    sheet = np.asarray(Image.open(root / "sheet.png"))[::8, ::8]
    truth = data.load_emoji(root / "e/emoji.npz", root / "e/labels.json", 8, ["red box"], 1, held_out=True).images[0]
    assert sheet.shape == (8, 38, 3) and (sheet[:, :8] == truth.permute(1, 2, 0).numpy()).all()
    r = json.loads(out.read_text())
    assert r["seen"]["probe"]["both"]["n"] == 11 and r["held_out"]["probe"]["both"]["n"] == 3
    assert r["settings"]["steps"] == 2 and r["settings"]["guidance"] == 1.5
    assert str(root) not in out.read_text()
    assert len(list((root / "probes").iterdir())) == len(list((root / "images").iterdir())) + 1 == 3
    monkeypatch.setattr(generate, "generate", None)  # the kept images are used, and give the same answer
    command.main(["emoji", "--weights", path, "--out", str(out), "--data-root", str(root), "--steps", "2",
                  "--per-held-out", "3", "--probes", str(root / "probes"), "--pictures", str(root / "images")])
    assert json.loads(out.read_text()) == r
    page = root / "results.md"
    page.write_text("By hand.\n<!-- emoji seen -->\n<!-- end emoji seen -->\n<!-- eurosat classes -->\nkept\n"
                    "<!-- end eurosat classes -->\n")
    command.main(["render", str(page), str(out)])
    text = page.read_text()
    assert text.startswith("By hand.\n") and "| probe: subject |" in text and "\nkept\n" in text
    assert "chance" in text and "25.0 %" in text
    command.main(["render", str(page), str(out)])
    assert page.read_text() == text
    fresh = root / "fresh.md"  # begins as the blank page, which has a place for every table
    command.main(["render", str(fresh), str(out)])
    for tables in render.TABLES.values():
        for name in tables:
            assert f"<!-- {name} -->" in fresh.read_text()
    for name in render.TABLES["emoji"]:
        assert f"<!-- {name} -->\n<!-- end" not in fresh.read_text(), name
    page.write_text("<!-- emoji seen -->")
    with pytest.raises(ValueError, match="only one of"):
        render.run(str(page), [str(out)])


def test_prompts_are_judged_in_known_and_unseen_sentences(emoji_root, monkeypatch):
    for name, value in (("SUBJECT_PASSES", 10), ("FOLDS", 2), ("STYLE_STEPS", 10), ("STYLE_FOLDS", 2)):
        monkeypatch.setattr(emoji, name, value)
    monkeypatch.setattr(emoji, "load", lambda meta, r, real=emoji.load: real(meta, r, "e/emoji.npz", "e/labels.json"))
    text = ["text.hidden_size=32", "text.depth=1", "text.num_heads=2", "text.vocab_size=120", "text.max_length=16"]
    ck, _ = run_tiny(emoji_root, *(x for s in ["train.steps=2", *text] for x in ("--set", s)))
    path, out = str(emoji_root / "t.safetensors"), emoji_root / "text.json"
    export.main([str(ck), path, "--data-root", str(emoji_root)])
    command.main(["emoji", "--weights", path, "--out", str(out), "--data-root", str(emoji_root), "--steps", "2",
                  "--per-held-out", "2", "--seen-pairs", "5"])
    r = json.loads(out.read_text())
    assert r["kind"] == "emoji_text" and r["seen"]["pairs"] == r["seen_reworded"]["pairs"] == 5
    assert r["held_out_reworded"]["probe"]["both"]["n"] == 2 and "noise" not in r["held_out_reworded"]
    negative = r["negative"]
    assert negative["prompts"] == negative["own"]["subject"]["n"] == 4 and negative["own"]["same_style"] == negative["own"]["avoided"]
    page = emoji_root / "page.md"
    command.main(["render", str(page), str(out)])
    assert "held-out pairs in unseen sentences, 2 each" in page.read_text()
    assert "negative prompt, 4 subjects" in page.read_text()


def test_negative_prompts_are_read_by_the_unconditional_passes(emoji_root):
    text = ["text.hidden_size=32", "text.depth=1", "text.num_heads=2", "text.vocab_size=120", "text.max_length=16"]
    ck, _ = run_tiny(emoji_root, *(x for s in ["train.steps=30", *text] for x in ("--set", s)))
    path = str(emoji_root / "t.safetensors")
    export.main([str(ck), path, "--dtype", "f32", "--data-root", str(emoji_root)])
    model, meta = exported.load_exported(path)
    reader = exported.described_reader(meta)
    said, other = [reader.encode(["a red ball"] * 3)], [reader.encode(["noto"] * 3)]
    s = {"steps": 2, "guidance": 2.0, "solver": "euler", "rule": "token", "batch": 2, "seed": 0}
    draw = lambda negative=None: generate.generate(model, said, s, negative)[0]
    none = [reader.encode([""] * 3)]
    assert torch.equal(draw(), draw(none)) and not torch.equal(draw(), draw(other))
    # Away from the prompt itself there is no direction: as without guidance.
    want = generate.generate(model, said, {**s, "guidance": 1.0})[0]
    torch.testing.assert_close(draw(said), want, rtol=0, atol=1.1 / 127.5)


def test_larger_images_are_judged_by_their_averages():
    x = torch.randint(0, 256, (2, 3, 64, 64)).float() / 127.5 - 1
    images = ((x + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    got = emoji.as_judged(x)
    assert torch.equal(((got + 1) * 127.5).round().to(torch.uint8), data.shrink(images, emoji.JUDGED))
    small = torch.randint(0, 256, (1, 3, 8, 8)).float() / 127.5 - 1
    torch.testing.assert_close(emoji.as_judged(small), small, rtol=0, atol=1e-6)


def test_rank_correlation():
    assert stats.spearman([1, 2, 3, 10], [5, 6, 8, 9]) == pytest.approx(1)
    assert stats.spearman([1, 2, 3, 4], [4, 3, 2, 1]) == pytest.approx(-1)
    assert stats.spearman([1, 1, 2], [1, 2, 3]) == pytest.approx(math.sqrt(3) / 2)


def jpegs(split, n, g):
    """Flat (red), striped (green) and noisy (grey) tiles of 8x8 in the layout of the archives."""
    files, labels = [], []
    for i in range(n):
        im = np.full((8, 8, 3), 128, np.uint8)
        if i % 3 == 0:
            im[..., 0] = 240
        if i % 3 == 1:
            im[::2, :, 1] = 250
        if i % 3 == 2:
            im[:] = g.integers(0, 255, (8, 8, 1))
        b = io.BytesIO()
        Image.fromarray(im).save(b, "JPEG", quality=95)
        files.append(b.getvalue())
        labels.append(i % 3)
    return {f"{split}_jpeg": np.frombuffer(b"".join(files), np.uint8), f"{split}_label": np.array(labels),
            f"{split}_offset": np.cumsum([0, *map(len, files)])}


def test_tiles_by_class_with_their_difficulty(tmp_path, monkeypatch):
    g = np.random.default_rng(0)
    (tmp_path / "eurosat").mkdir()
    np.savez(tmp_path / "eurosat/eurosat.npz", classes=np.array(["flat", "striped", "noisy"]), **jpegs("train", 60, g), **jpegs("test", 30, g))
    (tmp_path / "run.toml").write_text("""
name = "tiles"
[data]
image_size = 8
[model]
input_size = 8
patch_size = 2
depth = 2
hidden_size = 32
num_heads = 1
num_experts = 4
[train]
batch = 16
steps = 200
warmup = 5
lr = 3e-3
[sample]
steps = 3
""")
    monkeypatch.setattr(eurosat, "PROBE_STEPS", 60)
    monkeypatch.setattr(public, "PublicNet", lambda: lambda x: {"deep": x.flatten(1)[:, ::16], "low": x.mean((2, 3))})
    loop.main([str(tmp_path / "run.toml"), "--data-root", str(tmp_path), "--out", str(tmp_path / "runs")])
    weights, out, page = (str(tmp_path / n) for n in ("w.safetensors", "r.json", "r.md"))
    export.main([str(tmp_path / "runs/tiles/last.pt"), weights, "--data-root", str(tmp_path)])
    command.main(["eurosat", "--weights", weights, "--out", out, "--data-root", str(tmp_path), "--per-class", "4", "--loss-tiles", "30", "--public"])
    r = json.loads((tmp_path / "r.json").read_text())
    assert r["classes"]["noisy"]["gradient_real"]["value"] > 5 * r["classes"]["flat"]["gradient_real"]["value"]
    assert r["sets"]["generated"]["KID x 1000"]["value"] > r["sets"]["real"]["KID x 1000"]["value"]
    assert r["class"]["n"] == 12 and r["probe"]["unseen"]["share"] > 0.9
    loss = {k: c["loss"] for k, c in r["classes"].items()}
    assert loss["noisy"] > 1.5 * max(loss["flat"], loss["striped"]), loss
    assert r["loss_and_C"] == pytest.approx(stats.spearman(list(loss.values()), [c["C"] for c in r["classes"].values()]))
    command.main(["render", page, out])
    text = (tmp_path / "r.md").read_text()
    assert "all tiles as a set" in text and "mean step between" in text
    assert "| noisy |" in text and "Rank correlation" in text


def test_sentences_go_through_forms_and_phrases():
    asked = [torch.tensor([0, 0, 1, 1, 0]), torch.tensor([0, 0, 1, 1, 1])]
    got = emoji.sentences(asked, ["fox", "ant"], ["noto", "blob"], ["{s}, {t}", "{n} ({t})"])
    assert got == ["a fox, noto", "fox (noto)", "an ant, blob emoji", "ant (blob emoji)", "a fox, blobmoji"]


def test_shifts_spread_over_a_patch():
    assert sampling.shifts(1, 8) == [0] and sampling.shifts(2, 8) == [0, 4] and sampling.shifts(4, 4)[3] == 3
