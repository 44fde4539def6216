"""The comparison in miniature, from images to tables and curves."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from diffmoe.train import compare
from diffmoe.train.evaluate import __main__ as command
from diffmoe.train.evaluate import eurosat, miniature

CONFIG = """
name = "squares"
[data]
kind = "jpeg"
path = "squares.npz"
image_size = 8
augment = "flip"
[model]
input_size = 8
patch_size = 2
depth = 2
hidden_size = 32
num_heads = 2
num_experts = 4
[train]
batch = 16
steps = 4
log_every = 2
[sample]
steps = 2
"""


@pytest.fixture
def squares(tmp_path):
    parts = {"classes": np.array(["dark", "light"])}
    g = np.random.default_rng(0)
    for split, n in (("train", 60), ("test", 30)):
        files, labels = [], np.arange(n) % 2
        for label in labels:
            f = io.BytesIO()
            Image.fromarray((g.integers(0, 90, (16, 16, 3)) + 150 * label).astype(np.uint8)).save(f, "JPEG")
            files.append(f.getvalue())
        parts[f"{split}_jpeg"] = np.frombuffer(b"".join(files), np.uint8)
        parts[f"{split}_offset"] = np.cumsum([0, *map(len, files)])
        parts[f"{split}_label"] = labels.astype(np.uint8)
    np.savez(tmp_path / "squares.npz", **parts)
    (tmp_path / "c.toml").write_text(CONFIG)
    return tmp_path


def test_from_images_to_tables(squares, monkeypatch):
    monkeypatch.setattr(eurosat, "PROBE_STEPS", 10)
    args = [str(squares / "c.toml"), "--data-root", str(squares), "--out", str(squares / "runs"), "--results", str(squares / "r"),
            "--probes", str(squares / "p"), "--seeds", "0", "1", "--pictures", "20", "--steps", "2", "--validation", "16", "--gammas"]
    compare.main(args)
    files = sorted((squares / "r").iterdir())
    assert [f.name for f in files] == [f"squares-{a}-{s}.json" for a in ("dense", "diffmoe", "ec", "tc") for s in (0, 1)]
    runs = {f.stem: json.loads(f.read_text()) for f in files}
    r = runs["squares-diffmoe-0"]
    assert set(r["pictures"]) == {"pool", "token", "static"} and r["pictures"]["static"]["C"] == pytest.approx(1)
    assert r["pictures"]["pool"]["frechet"] > 0 and len(r["gamma"]) == len(compare.GAMMAS)
    c = [v["C"] for v in r["gamma"].values()]
    assert c == sorted(c) and c[-1] > c[0]
    assert runs["squares-ec-0"]["pictures"]["pool"]["C"] == pytest.approx(1)
    assert runs["squares-tc-0"]["parameters"] > runs["squares-tc-0"]["activated"]
    assert runs["squares-dense-0"]["parameters"] == runs["squares-dense-0"]["activated"]
    # Dense plus the gate, for one of the experts: what a token meets is as large.
    assert runs["squares-tc-0"]["activated"] - runs["squares-dense-0"]["activated"] == 4 * 32
    assert runs["squares-dense-0"]["validation"] != runs["squares-dense-1"]["validation"]
    monkeypatch.setattr(compare, "one_run", None)  # nothing is done twice
    compare.main(args)
    page = squares / "page.md"
    command.main(["render", str(page), *map(str, files)])
    text = page.read_text()
    assert "| Dense | 2 |" in text and "DiffMoE, static top-k" in text and "γ = 0.5" in text
    assert "nan" not in text
    svg = squares / "results/miniature-squares.svg"
    first = svg.read_bytes()
    command.main(["render", str(page), *map(str, files)])
    assert svg.read_bytes() == first


def test_ddpm(squares, monkeypatch):
    monkeypatch.setattr(eurosat, "PROBE_STEPS", 10)
    compare.main([str(squares / "c.toml"), "--data-root", str(squares), "--out", str(squares / "runs"), "--results", str(squares / "r"),
                  "--probes", str(squares / "p"), "--seeds", "0", "--images", "66", "--steps", "3", "--validation", "16",
                  "--architectures", "dense", "diffmoe", "--set", "name=squares_ddpm", "--set", "train.objective=ddpm", "--set",
                  "model.learn_sigma=true", "--set", "model.time_scale=1", "--set", "sample.solver=ddpm"])
    files = sorted((squares / "r").iterdir())
    r = json.loads(files[1].read_text())
    assert r["kind"] == "miniature_ddpm" and r["sampling"] == {"solver": "ddpm", "steps": 3, "guidance": 1.0}
    assert (squares / "p/squares.pt").exists()  # the judge belongs to the data, not to the run
    page = squares / "page.md"
    page.write_text("<!-- miniature ddpm settings --><!-- end miniature ddpm settings -->"
                    "<!-- miniature ddpm table --><!-- end miniature ddpm table -->")
    command.main(["render", str(page), *map(str, files)])
    assert "3 ancestral steps" in page.read_text() and "| Dense | 1 |" in page.read_text()


def test_spread():
    assert miniature.spread([1.0, 3.0], 1) == "2.0 ± 1.4" and miniature.spread([2.0], 1) == "2.0"
