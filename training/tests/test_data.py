"""Folders of images and cached latents, and the official settings, from files to a checkpoint."""

import json
import os

import numpy as np
import pytest
import torch
from PIL import Image

from diffmoe.train import config as configs
from diffmoe.train import data, export, exported, loop, schedule
from diffmoe.train.ema import Ema

SMALL = """
name = "small"
[model]
input_size = 8
in_channels = {channels}
patch_size = 2
depth = 2
hidden_size = 32
num_heads = 2
num_experts = 4
{model}
[train]
batch = 8
steps = 6
log_every = 2
{train}
[sample]
steps = 3
solver = "{solver}"
[data]
kind = "{kind}"
path = "set"
image_size = 8
"""


def run(root, **more):
    text = SMALL.format(**{"channels": 3, "model": "", "train": "", "solver": "euler", "kind": "folder", **more})
    (root / "small.toml").write_text(text)
    loop.main([str(root / "small.toml"), "--data-root", str(root), "--out", str(root / "runs")])
    return root / "runs/small/last.pt"


@pytest.fixture
def images(tmp_path):
    g = np.random.default_rng(0)
    for c, name in enumerate(["dark", "light"]):
        (tmp_path / "set" / name).mkdir(parents=True)
        for i in range(6):
            a = g.integers(0, 100, (20 + i, 33, 3)) + 150 * c
            Image.fromarray(a.astype(np.uint8)).save(tmp_path / "set" / name / f"{i}.png")
    return tmp_path


@pytest.fixture
def latents(tmp_path):
    for c, name in enumerate(["low", "high"]):
        (tmp_path / "set" / name).mkdir(parents=True)
        for i in range(4):
            mean = np.full((4, 8, 8), 10.0 * c + i)
            moments = np.concatenate([mean, np.full((4, 8, 8), -40.0)])
            more = {"moments_flip": moments + np.float64(100) * (np.arange(8) < 4)[:, None, None]} if i % 2 else {}
            np.savez(tmp_path / "set" / name / f"{i}.npz", moments=moments, **more)
    return tmp_path


def test_adm_crop():
    a = np.zeros((40, 60, 3), np.uint8)
    a[:, 10:50] = 200  # the centre square is bright
    out = data.adm_crop(Image.fromarray(a), 16)
    assert out.shape == (16, 16, 3) and out.min() > 150  # bicubic rings at the edge
    assert data.adm_crop(Image.fromarray(a[:5, :7]), 16).shape == (16, 16, 3)


def test_a_folder_of_images(images):
    d = data.load(configs.Data(kind="folder", path="set", image_size=8), str(images))
    assert len(d) == 12 and d.labels[0].values == ["dark", "light"]
    x, (y,) = d.batch(torch.arange(12))
    assert x.shape == (12, 3, 8, 8) and y.tolist() == [0] * 6 + [1] * 6
    assert x[:6].max() < -0.1 < 0.1 < x[6:].min()
    assert run(images).exists()
    with pytest.raises(ValueError, match="no .png"):
        data.load_folder(str(images / "set" / "dark"), 8, "none")


def test_cached_latents(latents):
    d = data.load(configs.Data(kind="latents", path="set", image_size=8, scaling_factor=0.5), str(latents))
    g = torch.Generator().manual_seed(0)
    seen = torch.cat([d.batch(torch.arange(8), generator=g)[0] for _ in range(8)]).view(8, 8, -1)
    plain = torch.tensor([0.0, 1, 2, 3, 10, 11, 12, 13]) * 0.5  # names are in order: high before low
    plain = plain[[4, 5, 6, 7, 0, 1, 2, 3]]
    for i in range(8):
        values = {round(float(v), 3) for v in seen[:, i, 0]}
        assert values == ({float(plain[i])} if i % 2 == 0 else {float(plain[i]), float(plain[i]) + 50})
    with pytest.raises(ValueError, match="cells per side"):
        data.load_latents(str(latents / "set"), 16, 1.0).batch(torch.arange(1))
    ck = run(latents, kind="latents", channels=4)
    export.main([str(ck), str(latents / "m.safetensors"), "--data-root", str(latents)])
    assert exported.read_description(str(latents / "m.safetensors"))["space"] == "latents"


@pytest.mark.parametrize("kind", ["tc", "ec", "dense"])
def test_baselines_train_and_export(images, kind):
    more = "n_shared_experts = 1\nuse_swiglu = true" if kind != "dense" else "qk_norm = true"
    ck = run(images, model=f'kind = "{kind}"\n{more}')
    path = str(images / "m.safetensors")
    report = images / "report.json"
    export.main([str(ck), path, "--data-root", str(images), "--dtype", "f32", "--report", str(report)])
    assert ("train" in json.loads(report.read_text())) == (kind != "dense")
    model, meta = exported.load_exported(path)
    assert meta["kind"] == kind and ("MoE_config" in meta["params"]) == (kind != "dense")
    trained = export.load_checkpoint(str(ck))[0]
    x, t, y = torch.randn(2, 3, 8, 8), torch.rand(2), [torch.tensor([0, 2])]
    torch.testing.assert_close(model(x, t, y)[0], trained(x, t, y)[0])


def test_a_ddpm_run(images):
    ck = run(images, model="learn_sigma = true\ntime_scale = 1.0", train='objective = "ddpm"', solver="ddim")
    path = str(images / "m.safetensors")
    export.main([str(ck), path, "--data-root", str(images)])
    meta = exported.read_description(path)
    assert (meta["t_kind"], meta["defaults"]["solver"]) == ("ddpm", "ddim")
    for wrong in ({"model": "learn_sigma = true\ntime_scale = 1.0", "train": 'objective = "ddpm"'},  # solver of a flow
                  {"train": 'objective = "ddpm"', "solver": "ddpm"}):  # no variances
        with pytest.raises(ValueError, match="ddpm"):
            run(images, **wrong)


def test_subjects_by_name_then_by_group(emoji_root):
    get = lambda *a, **k: data.load_emoji(emoji_root / "e/emoji.npz", emoji_root / "e/labels.json", 8, *a, **k).labels[0].values
    assert get(["blue ball", "red box"], 3, and_groups=["box"]) == ["blue ball", "red box", "pink box"]
    assert get([], 3, and_groups=["box"]) == ["red box", "pink box"]
    assert get(["blue ball"], 3, and_groups=["box"], without=["red box"]) == ["blue ball", "pink box"]
    assert get(["blue ball"], 3) == ["blue ball"] and len(get([], 3)) == 6


def test_capacity_schedule():
    # The official values for E = 4, marks 10 and 20.
    got = [schedule.capacity([10, 20], i, 4, 1) for i in (0, 10, 11, 15, 20, 30)]
    assert got == pytest.approx([4, 4, 3.7, 2.5, 1, 1])
    assert schedule.capacity([], 5, 4, 1.5) == 1.5


def test_paper_thresholds(images):
    settings = "paper_thresholds = true\nema_warmup = false\nema = 0.9\ncapacity_schedule = [2, 4]"
    state = torch.load(run(images, train=settings), weights_only=False)
    live, mean = (state[k]["blocks.1.mlp.expert_threshold"] for k in ("model", "ema"))
    # Six steps from 0: even the live ones are far below any probability, the averaged ones further.
    assert (0 < mean).all() and (mean < live).all() and (live < 0.3).all()


def test_average_without_warm_up():
    model = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.zeros_(model.weight)
    ema = Ema(model, 0.9, warmup=False)
    torch.nn.init.ones_(model.weight)
    ema.update(model)
    assert ema.model.weight.item() == pytest.approx(0.1)


def test_the_published_configuration_has_the_published_size():
    c = configs.load(os.path.join(os.path.dirname(__file__), "../configs/paper_s_e16.toml"))
    with torch.device("meta"):
        model = loop.build(c, [data.Labels("class", "y_embedder", ["x"] * 1000)])
    assert sum(p.numel() for p in model.parameters()) == 140_191_616
