import subprocess
import sys
import types

import pytest
import torch
from safetensors.torch import load_file

from diffmoe.sampling import is_inside
from diffmoe.train import config as configs
from diffmoe.train import data, export, exported, flow, objective, sample, sampler, schedule
from diffmoe.train.ema import Ema
from helpers import run_tiny, small_model


def test_overfit_resume_and_export(emoji_root, capsys):
    run_tiny(emoji_root, "--set", "train.steps=100", "--set", "train.decay_fraction=1e-9")
    ck, loss = run_tiny(emoji_root, "--resume")
    assert len(loss) == 25 and loss[-1] < 0.15 * loss[0], loss
    assert (emoji_root / "runs/tiny/grid_final.png").exists()

    model, config, labels, state = export.load_checkpoint(str(ck))
    assert state["step"] == 250 and state["images"] == 250 * 32
    outs = {}
    for dtype in ("f32", "f16", "int8"):
        path = str(emoji_root / f"{dtype}.safetensors")
        args = [str(ck), path, "--dtype", dtype, "--data-root", str(emoji_root), "--reference", path + ".ref"]
        export.main(args + (["--no-recalibrate"] if dtype == "f32" else []))
        loaded, meta = exported.load_exported(path)
        ref = load_file(path + ".ref")
        out, _ = loaded(ref["x"], ref["t"], [ref["y"].long(), ref["style"].long()])
        torch.testing.assert_close(out, ref["out"], rtol=0, atol=1e-5)
        outs[dtype] = loaded
    # f32: exactly the EMA weights, tables folded.
    x, t, labels_ = torch.randn(4, 3, 8, 8), torch.rand(4), [torch.arange(1, 5), torch.tensor([0, 1, 2, 8])]
    torch.testing.assert_close(outs["f32"](x, t, labels_)[0], model(x, t, labels_)[0], rtol=0, atol=1e-5)
    assert meta["labels"][1] == {"name": "style", "tensor": "style_embedder.embedding_table.weight", "null": 8,
                                 "values": data.STYLES}
    assert meta["labels"][0]["groups"] == ["ball", "ball", "ball", "box"]
    stored = load_file(str(emoji_root / "int8.safetensors"))
    key = "blocks.1.mlp.experts.0.fc1.weight"
    assert stored[key].dtype == torch.int8 and stored[key + ".scale"].shape == (256,)
    assert stored["blocks.1.mlp.gate_weight"].dtype == torch.float32
    assert stored["blocks.1.mlp.expert_threshold"].dtype == torch.float32
    assert stored["y_embedder.embedding_table.weight"].dtype == torch.float16
    assert not any("shared" in k or "mix" in k or "ready" in k for k in stored)

    # It learned the colours: red is red, blue is blue.
    z = sample.draw(outs["f16"], sample.expand(["red ball,noto", "blue ball,noto"], labels), 10, 1.5, "heun")
    centre = z[:, :, 3:5, 3:5].mean((2, 3))
    assert centre[0, 0] > 0.3 > -0.3 > centre[0, 2] and centre[1, 2] > 0.3 > -0.3 > centre[1, 0]


def test_the_commands(emoji_root):
    """Run as a user would type it; other tests call the commands as functions."""
    run = lambda part, *arguments: subprocess.run([sys.executable, "-m", f"diffmoe.train{part}", *arguments], cwd=emoji_root,
                                                  capture_output=True, text=True, check=True).stdout
    run("", "run.toml", "--data-root", ".", "--set", "train.steps=2")
    said = run(".export", "runs/tiny/last.pt", "m.safetensors", "--data-root", ".")
    assert "mean capacity" in said and (emoji_root / "m.safetensors").exists()


def test_a_model_that_says_the_data(emoji_root):
    """It learns, its file says so, and its samples follow from the velocity (x - z) / (1 - t)."""
    ck, loss = run_tiny(emoji_root, "--set", "model.prediction=data", "--set", "train.t_shift=2")
    assert loss[-1] < 0.1 * loss[0], loss
    path = str(emoji_root / "data.safetensors")
    export.main([str(ck), path, "--data-root", str(emoji_root), "--dtype", "f32"])
    model, meta = exported.load_exported(path)
    assert meta["params"]["prediction"] == "data"
    columns = sample.expand(["red ball,noto", "blue ball,noto"], export.load_checkpoint(str(ck))[2])
    z = sample.draw(model, columns, 10, 1.5, "heun")
    centre = z[:, :, 3:5, 3:5].mean((2, 3))
    assert centre[0, 0] > 0.3 > -0.3 > centre[0, 2] and centre[1, 2] > 0.3 > -0.3 > centre[1, 0]
    # One step of Euler from noise is the prediction itself.
    z, asked = torch.randn(2, 3, 8, 8), [torch.as_tensor(c) for c in columns]
    torch.testing.assert_close(sampler.sample(model, z, asked, steps=1), model(z, torch.zeros(2), asked)[0], rtol=0, atol=1e-5)


def test_the_loss_of_data_is_that_of_the_velocity_which_follows():
    x, noise = torch.randn(2, 3, 3, 4, 4).unbind(0)
    t, said = torch.tensor([0.0, 0.4, 0.9]), torch.randn(3, 3, 4, 4)
    velocity = (said - flow.mix(x, noise, t)) / (1 - t)[:, None, None, None]
    torch.testing.assert_close(flow.flow_loss(said, x, noise, t, "data"), flow.flow_loss(velocity, x, noise))
    with pytest.raises(ValueError, match="prediction"):
        configs.from_dict({"model": {"prediction": "noise"}})


def test_times_are_shifted_toward_noise():
    g = torch.Generator().manual_seed(0)
    for kind in ("uniform", "logit_normal"):
        plain = flow.sample_t(20_000, kind, "cpu", g).sort().values
        moved = flow.sample_t(20_000, kind, "cpu", g, shift=2.0).sort().values
        torch.testing.assert_close(moved, plain / (2 - plain), atol=0.02, rtol=0)
    early = (flow.sample_t(20_000, "uniform", "cpu", g, shift=2.0) < 0.05).float().mean()
    assert 0.09 < early < 0.105  # 2 * 0.05 / (1 + 0.05); unshifted it is 0.05
    with pytest.raises(ValueError, match="t_dist"):
        flow.sample_t(1, "normal", "cpu")


def test_recalibration_reaches_the_capacity():
    torch.manual_seed(0)
    model = small_model(input_size=8, depth=4, hidden_size=32).eval()
    for w in model.parameters():
        if w.requires_grad:
            torch.nn.init.normal_(w, std=0.1)
    batches = [(torch.randn(32, 3, 8, 8), torch.rand(32), [torch.randint(0, 11, (32,))]) for _ in range(4)]
    export.recalibrate(model, batches, 1.0)
    mean = sum(export.capacities(model, *b)[0] for b in batches) / 4
    assert abs(mean - 1) < 0.05


def test_label_dropout_reaches_every_null_row():
    g = torch.Generator().manual_seed(0)
    y = [torch.zeros(20000, dtype=torch.long), torch.zeros(20000, dtype=torch.long)]
    a, b = flow.drop_labels(y, [5, 8], 0.1, 0.05, g)
    rate = lambda m: m.float().mean().item()
    assert abs(rate((a == 5) & (b == 8)) - 0.1) < 0.01
    assert abs(rate((a == 5) & (b == 0)) - 0.05) < 0.01
    assert abs(rate((a == 0) & (b == 8)) - 0.05) < 0.01


def test_ema_averages_parameters_and_copies_thresholds():
    model = small_model()
    ema = Ema(model)
    with torch.no_grad():
        model.blocks[1].mlp.expert_threshold.fill_(0.7)
        model.final_layer.linear.bias.fill_(1.0)
    for _ in range(3):
        ema.update(model)
    assert (ema.model.blocks[1].mlp.expert_threshold == 0.7).all()
    kept = (1 / 10) * (2 / 11) * (3 / 12)
    torch.testing.assert_close(ema.model.final_layer.linear.bias, torch.full((12,), 1 - kept))


def test_schedule():
    c = configs.Train(lr=1.0, warmup=10, steps=1000, decay_fraction=0.4)
    rate = lambda step: schedule.learning_rate(c, step, schedule.planned(c, step, 0))
    assert rate(0) == pytest.approx(0.1)
    assert rate(500) == 1
    assert rate(800) == pytest.approx(0.5)
    c.max_hours = 1
    assert schedule.planned(c, 500, 0.9 * 3600) == pytest.approx(0.25)
    assert schedule.planned(c, 1001, 0) == 0


def test_augmentation_is_a_symmetry():
    x = torch.arange(48).view(1, 3, 4, 4).repeat(64, 1, 1, 1).to(torch.uint8)
    d = data.Dataset(x, [torch.zeros(64, dtype=torch.long)], [], "dihedral")
    y, _ = d.batch(torch.arange(64), generator=torch.Generator().manual_seed(0))
    assert len(torch.unique(y, dim=0)) == 8
    assert (y.flatten(1).sort(1).values - y.flatten(1).sort(1).values[0]).abs().max() == 0


def test_a_share_of_the_times_is_late():
    g = torch.Generator().manual_seed(0)
    early = flow.sample_t(40_000, "logit_normal", "cpu", g, shift=2.5)
    mixed = flow.sample_t(40_000, "logit_normal", "cpu", g, shift=2.5, late=0.2, late_from=0.6)
    share = lambda t, lo, hi: ((t >= lo) & (t < hi)).float().mean().item()
    assert share(early, 0.9, 1) < 0.002
    assert share(mixed, 0.9, 1) == pytest.approx(0.2 * 0.25, abs=0.005)
    assert share(mixed, 0, 0.6) == pytest.approx(0.8 * share(early, 0, 0.6), abs=0.01)
    assert mixed.max() < 1 and mixed.min() >= 0
    with pytest.raises(ValueError, match="t_late"):
        configs.from_dict({"train": {"t_late": 1.5}})


def test_the_least_noise_bounds_the_weight_of_late_times():
    x, noise = torch.randn(2, 1, 3, 4, 4).unbind(0)
    t, said = torch.tensor([0.99]), torch.zeros(1, 3, 4, 4)
    square = x.square().mean()
    for least in (0.05, 0.03, 0.02):
        c = configs.from_dict({"model": {"prediction": "data"}, "train": {"least_noise": least}})
        torch.testing.assert_close(objective.make(c).loss(said, x, noise, t)[0], square / least**2)
    with pytest.raises(ValueError, match="least_noise"):
        configs.from_dict({"train": {"least_noise": 0}})


class Counted(torch.nn.Module):
    """Answers z plus one where a label is given, and counts its passes; optionally with a pattern that depends on the place."""

    config = types.SimpleNamespace(objective="flow", prediction="velocity", in_channels=3)
    config.finest = types.SimpleNamespace(patch_size=4)

    def __init__(self, pattern=None):
        super().__init__()
        self.pattern, self.times = pattern, []

    def null_labels(self, n, device=None):
        return [torch.full((n,), -1)]

    def forward(self, z, t, labels):
        self.times.append(float(t[0]))
        given = (labels[0] >= 0).float()[:, None, None, None]
        return z * 0 + given + (0 if self.pattern is None else self.pattern), None


def test_guidance_in_an_interval_takes_one_pass_elsewhere():
    z, asked = torch.zeros(1, 3, 4, 4), [torch.tensor([0])]
    model = Counted()
    out = sampler.sample(model, z, asked, steps=10, guidance=3.0, interval=(0.1, 0.7))
    # Velocity 3 at the six times 0.1 ... 0.6, else 1.
    torch.testing.assert_close(out, torch.full_like(z, (6 * 3 + 4) / 10))
    assert len(model.times) == 16
    assert [is_inside(t, (0.5, 1.0)) for t in (0.4, 0.5, 1.0)] == [False, True, True]
    assert [is_inside(t, (0.1, 0.7)) for t in (0.0, 0.1, 0.69, 0.7, 1.0)] == [False, True, True, False, False]
    full = Counted()
    torch.testing.assert_close(sampler.sample(full, z, asked, steps=10, guidance=3.0), torch.full_like(z, 3.0))
    assert len(full.times) == 20


def test_averaging_over_shifts_removes_what_depends_on_the_place():
    pattern = torch.zeros(1, 1, 8, 8)
    pattern[..., ::4, :] = 1.0  # a line at every border of patches of 4
    z, asked = torch.zeros(1, 3, 8, 8), [torch.tensor([0])]
    still = sampler.sample(Counted(pattern), z, asked, steps=4)
    assert still.std() > 0.4
    spun = sampler.sample(Counted(pattern), z, asked, steps=4, cycle_spin=(4, 0))
    torch.testing.assert_close(spun, torch.full_like(z, 1.25))
    late = Counted(pattern)
    half = sampler.sample(late, z, asked, steps=4, cycle_spin=(4, 0.5))
    torch.testing.assert_close(half, (still + spun) / 2)
    assert len(late.times) == 2 + 2 * 4
