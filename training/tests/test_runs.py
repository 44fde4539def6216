"""Starting from a file, decay on demand, the log, and resuming."""

import csv
import datetime

import pytest
import torch

from diffmoe.train import config as configs
from diffmoe.train import data, export, loop, schedule
from diffmoe.train.exported import load_exported
from diffmoe.train.start import initialise
from helpers import run_tiny


@pytest.fixture
def exported(emoji_root):
    """A short run and its exported weights."""
    ck, _ = run_tiny(emoji_root, "--set", "train.steps=12")
    path = str(emoji_root / "file.safetensors")
    export.main([str(ck), path, "--dtype", "f32", "--data-root", str(emoji_root)])
    return emoji_root, path


def tiny_model(root, *overrides):
    c = configs.load(root / "run.toml", list(overrides))
    dataset = data.load(c.data, str(root))
    torch.manual_seed(5)
    return loop.build(c, dataset.labels), dataset


def test_a_run_started_from_a_file_computes_what_the_file_computes(exported):
    root, path = exported
    model, dataset = tiny_model(root)
    earlier = initialise(model, dataset, path)
    assert earlier["steps"] == 12 and earlier["images"] == 12 * 32
    stored, _ = load_exported(path)
    x, t, y = torch.randn(4, 3, 8, 8), torch.rand(4), [torch.tensor([0, 1, 3, 4]), torch.tensor([0, 1, 2, 8])]
    torch.testing.assert_close(model.eval()(x, t, y)[0], stored(x, t, y)[0], rtol=0, atol=1e-6)
    for i, m in model.moe_layers().items():
        assert m.threshold_ready == 1 and (m.expert_threshold == stored.moe_layers()[i].expert_threshold).all()


def test_label_rows_are_matched_by_name(exported):
    root, path = exported
    model, dataset = tiny_model(root)
    dataset.labels[0].values = ["blue ball", "a stranger", "red box", "red ball"]
    fresh = model.y_embedder.table().detach().clone()
    initialise(model, dataset, path)
    stored, meta = load_exported(path)
    names, theirs = meta["labels"][0]["values"], stored.y_embedder.embedding_table.weight
    mine = model.y_embedder.table().detach()
    for row, name in ((0, "blue ball"), (2, "red box"), (3, "red ball")):
        torch.testing.assert_close(mine[row], theirs[names.index(name)])
    torch.testing.assert_close(mine[4], theirs[len(names)])  # null
    torch.testing.assert_close(mine[1], fresh[1])


@pytest.mark.parametrize("other", ["model.hidden_size=32", "model.depth=2", "model.depth=6"])
def test_a_file_of_another_size_is_refused(exported, other):
    root, path = exported
    model, dataset = tiny_model(root, other)
    with pytest.raises(ValueError, match=r"does not fit the \[model\] section"):
        initialise(model, dataset, path)


def test_larger_images_start_from_smaller_ones(exported):
    root, path = exported
    model, dataset = tiny_model(root, "model.input_size=16", "data.image_size=16")
    own = model.pos_embed.clone()
    initialise(model, dataset, path)
    source = load_exported(path)[0]
    assert torch.equal(model.pos_embed, own) and own.shape[1] == 4 * source.pos_embed.shape[1]
    assert torch.equal(model.blocks[0].attn.qkv.weight, source.blocks[0].attn.qkv.weight)


LARGER_PATCHES = ["model.input_size=16", "data.image_size=16", "model.patch_size=4"]


def test_larger_patches_are_seen_as_their_averages(exported):
    root, path = exported
    model, dataset = tiny_model(root, *LARGER_PATCHES, "model.prediction=data")
    initialise(model, dataset, path)
    source = load_exported(path)[0]
    x = torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(model.patchify(x), source.patchify(torch.nn.functional.avg_pool2d(x, 2)), rtol=0, atol=1e-5)
    assert torch.equal(model.blocks[1].mlp.gate_weight, source.blocks[1].mlp.gate_weight)
    assert not model.final_layer.linear.weight.any()
    with pytest.raises(ValueError, match="not a multiple"):
        initialise(tiny_model(root, "model.input_size=12", "data.image_size=16", "model.patch_size=3")[0], dataset, path)


def test_smaller_patches_begin_as_the_larger_ones_enlarged(emoji_root):
    more = ["model.prediction=data", "model.patch_size=4"]
    ck, _ = run_tiny(emoji_root, "--set", "train.steps=30", *(x for s in more for x in ("--set", s)))
    path = str(emoji_root / "large.safetensors")
    export.main([str(ck), path, "--dtype", "f32", "--data-root", str(emoji_root)])
    model, dataset = tiny_model(emoji_root, "model.prediction=data")  # patches of 2
    initialise(model, dataset, path)
    source = load_exported(path)[0]
    x = torch.randn(3, 3, 8, 8)
    large = x.repeat_interleave(2, 2).repeat_interleave(2, 3)[:, :, :8, :8]  # its first patch is the first of x, enlarged
    torch.testing.assert_close(model.patchify(x)[:, 0], source.patchify(large)[:, 0], rtol=0, atol=1e-5)
    h, c = torch.randn(3, 16, 64), torch.randn(3, 64)
    mine = model.unpatchify(model.final_layer(h, c))[:, :, :2, :2]
    theirs = source.unpatchify(source.final_layer(h[:, :4], c))[:, :, :4, :4]
    torch.testing.assert_close(mine, torch.nn.functional.avg_pool2d(theirs, 2), rtol=0, atol=1e-5)


def test_another_prediction_has_an_answer_of_its_own(exported):
    root, path = exported
    model, dataset = tiny_model(root, "model.prediction=data")
    initialise(model, dataset, path)
    assert not model.final_layer.linear.weight.any() and model.blocks[1].mlp.gate_weight.any()


def test_a_file_may_extend_another(tmp_path):
    (tmp_path / "base.toml").write_text('name = "base"\n[model]\ndepth = 3\nnum_heads = 1\n[train]\nlr = 1.0\n')
    (tmp_path / "more.toml").write_text('extends = "base.toml"\nname = "more"\n[model]\ndepth = 5\n')
    c = configs.load(tmp_path / "more.toml", ["train.batch=2"])
    assert (c.name, c.model.depth, c.model.num_heads, c.train.lr, c.train.batch) == ("more", 5, 1, 1.0, 2)


def test_a_continued_run_adds_up_what_it_was_trained_on(exported):
    root, path = exported
    ck, loss = run_tiny(root, "--init", path, "--set", "train.steps=20", "--set", "train.warmup=1")
    again = str(root / "again.safetensors")
    export.main([str(ck), again, "--data-root", str(root)])
    assert load_exported(again)[1]["card"]["train_images"] == (12 + 20) * 32


def test_resuming_is_exact(emoji_root):
    more = ["--set", "train.steps=30", "--set", "train.save_minutes=0", "--set", "train.sample_minutes=100"]
    ck, _ = run_tiny(emoji_root, *more)
    whole = torch.load(ck, weights_only=False)

    class Stop(Exception):
        pass

    real = loop.Trainer.one_step

    def stop_at_13(self, lr):
        if self.step == 13:
            raise Stop
        real(self, lr)

    with pytest.MonkeyPatch.context() as m, pytest.raises(Stop):
        m.setattr(loop.Trainer, "one_step", stop_at_13)
        run_tiny(emoji_root, *more)
    assert torch.load(ck, weights_only=False)["step"] == 13
    run_tiny(emoji_root, *more, "--resume")
    parts = torch.load(ck, weights_only=False)
    for which in ("model", "ema"):
        for k, w in whole[which].items():
            assert torch.equal(w, parts[which][k]), (which, k)
    assert torch.equal(whole["random"], parts["random"])


def test_decay_on_demand(tmp_path):
    c = configs.Train(decay_minutes=10, deadline="2030-01-01T12:00+00:00")
    noon = 1893499200.0
    d = schedule.Decay(c, tmp_path)
    assert d.left(noon - 3600) == 1 and d.left(noon - 601) == 1 and d.began is None
    assert d.left(noon - 300) == pytest.approx(0.5) and d.left(noon) == 0
    # Asked for earlier, it lasts its ten minutes and is remembered when resumed.
    (tmp_path / "decay").touch()
    d = schedule.Decay(c, tmp_path)
    assert d.left(noon - 3600) == pytest.approx(1)
    assert schedule.Decay(c, tmp_path, d.began).left(noon - 3600 + 150) == pytest.approx(0.75)
    assert d.left(noon - 3600 + 600) == 0
    with pytest.raises(ValueError, match="time zone"):
        schedule.Decay(configs.Train(deadline="2030-01-01T12:00"), tmp_path)


def test_the_decay_file_ends_a_run(emoji_root):
    (emoji_root / "runs/tiny").mkdir(parents=True)
    (emoji_root / "runs/tiny/decay").touch()
    ck, _ = run_tiny(emoji_root, "--set", "train.decay_minutes=0.02", "--set", "train.steps=1000000")
    assert 0 < torch.load(ck, weights_only=False)["step"] < 5000


def test_a_new_deadline_prolongs_a_run_that_has_ended(emoji_root):
    steps = lambda ck: torch.load(ck, weights_only=False)["step"]
    more = ["--set", "train.steps=3", "--set"]
    past = "train.deadline=2020-01-01T00:00+00:00"
    assert steps(run_tiny(emoji_root, *more, past)[0]) == 0
    assert steps(run_tiny(emoji_root, "--resume", *more, past)[0]) == 0
    later = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(hours=1)
    assert steps(run_tiny(emoji_root, "--resume", *more, f"train.deadline={later.isoformat()}")[0]) == 3


def test_the_log_splits_the_loss_by_noise_level(emoji_root):
    run_tiny(emoji_root, "--set", "train.steps=20")
    with open(emoji_root / "runs/tiny/log.csv", newline="") as f:
        rows = list(csv.DictReader(f))
    assert [r["step"] for r in rows] == ["10", "20"]
    for r in rows:
        parts = [float(r[f"loss_t{t}"]) for t in ("0.0", "0.2", "0.4", "0.6", "0.8")]
        assert min(parts) < float(r["loss"]) < max(parts)
        assert 0 < float(r["capacity"]) < 4
