"""The detail head: begins as nothing, follows its written formula, travels through files, and learns."""

import itertools
import os

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from diffmoe import Config
from diffmoe.train import config as configs
from diffmoe.train import data, export, exported, flow, loop
from diffmoe.train.detail import DetailHead
from diffmoe.train.start import initialise
from helpers import document, run_tiny, small_model

FIXTURE = os.path.join(os.path.dirname(__file__), "../../tests/fixtures/detail_head")
HEAD = ["--set", "model.prediction=data", "--set", "model.detail_head=6"]


def silu(a):
    return a / (1 + (-a).exp())


def by_hand(state, x, z, t, patch=0):
    """The formula of docs/models.md, spelled out: a sum over the nine shifted images."""
    planes = torch.zeros(len(x), 3 if patch else 1, *x.shape[2:])
    for b, row, column in itertools.product(*map(range, (len(x), *x.shape[2:]))):
        phases = [(2 * (i % patch) + 1) / patch - 1 for i in (row, column)] if patch else []
        planes[b, :, row, column] = torch.tensor([t[b].item(), *phases])
    h = torch.cat([x, z, planes], dim=1)
    for i, name in enumerate(("conv_in", "conv_mid", "conv_out")):
        w, b = state[f"detail_head.{name}.weight"], state[f"detail_head.{name}.bias"]
        padded = F.pad(h, (1, 1, 1, 1))
        H, W = h.shape[2:]
        y = b.view(1, -1, 1, 1) + sum(torch.einsum("oc,bchw->bohw", w[:, :, r, c], padded[:, :, r : r + H, c : c + W])
                                      for r in range(3) for c in range(3))
        h = silu(y) if i < 2 else y
    return x + h


def test_the_recorded_case_follows_the_formula():
    io = load_file(os.path.join(FIXTURE, "io.safetensors"))
    state = load_file(os.path.join(FIXTURE, "model.safetensors"))
    out = by_hand(state, io["detail_head.x"], io["x"], io["t"], patch=3)
    torch.testing.assert_close(out, io["out"], rtol=0, atol=1e-5)
    assert (io["out"] - io["detail_head.x"]).abs().mean() > 0.05


def test_a_new_head_changes_nothing():
    head = DetailHead(Config.from_dict(document(prediction="data", detail_head={"channels": 24})))
    head.reset_parameters()
    x, z = torch.randn(2, 2, 3, 8, 8).unbind(0)
    assert torch.equal(head(x, z, torch.tensor([0.1, 0.9])), x)
    assert sum(w.numel() for w in head.parameters()) == 7395


def test_a_head_is_refused_where_it_does_not_apply():
    with pytest.raises(ValueError, match="detail_head"):
        configs.from_dict({"model": {"detail_head": 24}})
    with pytest.raises(ValueError, match="detail_head"):
        small_model(learn_sigma=True, prediction="data", detail_head={"channels": 4})


def starts_as(root, file, settings):
    """A run with these settings that starts from a file computes what the file's model does."""
    c = configs.load(root / "run.toml", settings)
    dataset = data.load(c.data, str(root))
    model = loop.build(c, dataset.labels)
    initialise(model, dataset, file)
    x, t, y = torch.randn(2, 3, 8, 8), torch.rand(2), [torch.tensor([0, 4]), torch.tensor([1, 8])]
    torch.testing.assert_close(model.eval()(x, t, y)[0], exported.load_exported(file)[0](x, t, y)[0], rtol=0, atol=1e-6)
    return x, t, y


def test_a_head_is_added_to_a_file_without_one_and_exported(emoji_root):
    ck, _ = run_tiny(emoji_root, "--set", "model.prediction=data", "--set", "train.steps=30")
    bare = str(emoji_root / "bare.safetensors")
    export.main([str(ck), bare, "--dtype", "f32", "--data-root", str(emoji_root)])
    x, t, y = starts_as(emoji_root, bare, HEAD[1::2])

    ck, _ = run_tiny(emoji_root, "--init", bare, *HEAD, "--set", "train.steps=40", "--set", "train.warmup=1")
    path = str(emoji_root / "head.safetensors")
    export.main([str(ck), path, "--dtype", "int8", "--data-root", str(emoji_root)])
    loaded, meta = exported.load_exported(path)
    assert meta["params"]["detail_head"] == {"channels": 6}
    stored = load_file(path)
    assert stored["detail_head.conv_mid.weight"].dtype == torch.float16
    assert stored["detail_head.conv_in.weight"].shape == (6, 7, 3, 3)
    assert loaded.detail_head.conv_out.weight.any(), "the head learned"
    with_head = loaded(x, t, y)[0]
    loaded.detail_head = None
    torch.testing.assert_close(with_head, by_hand({k: v.float() for k, v in stored.items() if "detail" in k},
                                                  loaded(x, t, y)[0], x, t), rtol=0, atol=1e-5)


def test_a_larger_head_with_phases_starts_as_the_one_of_the_file(emoji_root):
    ck, _ = run_tiny(emoji_root, *HEAD, "--set", "train.steps=30", "--set", "train.warmup=1")
    small = str(emoji_root / "small.safetensors")
    export.main([str(ck), small, "--dtype", "f32", "--data-root", str(emoji_root)])
    more = ["--set", "model.prediction=data", "--set", "model.detail_head=9", "--set", "model.detail_phase=true"]
    starts_as(emoji_root, small, more[1::2])

    ck, _ = run_tiny(emoji_root, "--init", small, *more, "--set", "train.steps=30", "--set", "train.warmup=1")
    large = str(emoji_root / "large.safetensors")
    export.main([str(ck), large, "--dtype", "f32", "--data-root", str(emoji_root)])
    loaded, meta = exported.load_exported(large)
    assert meta["params"]["detail_head"] == {"channels": 9, "phase": True}
    assert loaded.detail_head.conv_in.weight[:, 7:].any(), "the phases are used"
    assert loaded.detail_head.phases(torch.zeros(1, 3, 2, 4))[1][0, 0].tolist() == [[-0.5, 0.5, -0.5, 0.5]] * 2
    with pytest.raises(ValueError, match="does not fit"):
        run_tiny(emoji_root, "--init", large, *HEAD)


def test_neighbouring_errors_count_more_with_a_gradient_weight():
    x, noise, t = torch.zeros(2, 1, 4, 4), torch.zeros(2, 1, 4, 4), torch.tensor([0.5, 0.5])
    flat, checks = torch.ones(4, 4), torch.tensor([[1.0, -1], [-1, 1]]).repeat(2, 2)
    out = torch.stack([flat, checks])[:, None]
    plain = flow.flow_loss(out, x, noise, t, "data")
    assert plain.tolist() == [4, 4]
    # A step of 2 between all neighbours, squared, in both directions, over 0.5 squared.
    assert flow.flow_loss(out, x, noise, t, "data", gradient_weight=0.5).tolist() == [4, 4 + 0.5 * 8 * 4]


def test_the_head_alone_can_be_trained(emoji_root):
    ck, _ = run_tiny(emoji_root, "--set", "model.prediction=data", "--set", "train.steps=30")
    bare = str(emoji_root / "bare.safetensors")
    export.main([str(ck), bare, "--dtype", "f32", "--data-root", str(emoji_root)])
    only = [*HEAD, "--set", 'train.only=["detail_head"]', "--set", "train.warmup=1"]
    ck, _ = run_tiny(emoji_root, "--init", bare, *only, "--set", "train.steps=40")
    path = str(emoji_root / "head.safetensors")
    export.main([str(ck), path, "--dtype", "f32", "--data-root", str(emoji_root), "--no-recalibrate"])
    old, new = load_file(bare), load_file(path)
    assert all(torch.equal(old[k], new[k]) for k in old)
    assert new["detail_head.conv_out.weight"].any()
    with pytest.raises(ValueError, match="no parameter"):
        run_tiny(emoji_root, *HEAD, "--set", 'train.only=["nothing"]')
