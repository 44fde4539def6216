"""Golden numbers of the official modules on a tiny model whose weights are a
formula: value[i] = 0.2 sin(0.7 i + 1.3 n), n = position in the state_dict."""

import json
import math
import os

import pytest
import torch

from diffmoe.train import flow, sampler
from diffmoe import Config
from diffmoe.train.model import DiT, TimeEmbedder, sincos_pos_embed
from diffmoe.train.moe import from_official, to_official
from helpers import small_model


def wave(shape, f, a, b):
    n = math.prod(shape)
    return f(a * torch.arange(n, dtype=torch.float64) + b).float().view(shape)


def official(model):
    return to_official(model.state_dict(), model.config)


def tiny(kind="diffmoe"):
    model = small_model(kind, in_channels=4, learn_sigma=True)
    state = official(model)
    for n, (key, w) in enumerate(state.items(), 1):
        if key.endswith("expert_threshold"):
            state[key] = torch.full_like(w, 0.5)
        elif key != "pos_embed" and not key.endswith("ema_decay"):
            state[key] = (0.2 * torch.sin(0.7 * torch.arange(w.numel(), dtype=torch.float64) + 1.3 * n)).float().view(w.shape)
    model.load_state_dict(from_official(state))
    x = wave((3, 4, 4, 4), torch.sin, 0.9, 0.1)
    return model, x, torch.tensor([0.1, 0.45, 0.8])


def close(a, b, tol=2e-5):
    a = torch.as_tensor(a).detach()
    torch.testing.assert_close(a.flatten(), torch.tensor(b, dtype=a.dtype).flatten(), rtol=tol, atol=tol)


LABELS = [torch.tensor([1, 7, 10])]


def test_small_functions():
    f = TimeEmbedder.features(torch.tensor([0.5, 999.0]))
    idx = [0, 1, 64, 127]
    close(f[0, idx], [0.87758255, 0.89369327, 0.99998748, 1.0])
    close(f[0, [128 + i for i in idx]], [0.47942555, 0.44867843, 0.00499998, 5.3730e-5])
    close(f[1, idx], [0.99964982, 0.96378529, -0.84446979, 0.99424314], 2e-4)
    e = sincos_pos_embed(8, 2)[0]
    close(e[1], [0.841471, 0.0099998, 0.5403023, 0.99995, 0, 0, 1, 1])
    close(e[2], [0, 0, 1, 1, 0.841471, 0.0099998, 0.5403023, 0.99995])


def test_official_names():
    keys = list(official(tiny()[0]))
    assert len(keys) == 51
    assert keys[0] == "pos_embed" and keys[7] == "y_embedder.embedding_table.weight"
    assert keys[22:26] == ["blocks.1.mlp." + k for k in (
        "gate_weight", "expert_threshold", "ema_decay", "experts.0.fc1.weight")]
    assert keys[41] == "blocks.1.mlp.capacity_predictor.0.weight" and keys[-1] == "final_layer.adaLN_modulation.1.bias"


def test_eval_forward():
    model, x, t = tiny()
    model.eval()
    rec = model.record()
    out, _ = model(x, t, LABELS)
    close(out.sum(), [10.628209], 1e-4)
    close(out.abs().sum(), [573.03821])
    close(out[0, 0, 0], [-0.5945745, -2.2438085, -0.9497848, -1.7909199])
    close(out[2, 7, 3], [-1.4938681, -2.1715066, -1.5202888, -2.0320160])
    r = rec[1]
    assert r["counts"].tolist() == [12, 11, 11, 0]
    assert r["selected"][:, 1].tolist() == [0.0] + [1.0] * 11
    assert r["selected"][:, 2].nonzero()[:, 0].tolist() == [i for i in range(12) if i != 8]
    close(r["logits"][0].sigmoid(), [0.5126197, 0.5369439, 0.5288271, 0.4630753])
    close(r["gate"][0], [0.5790009, 0.3737158, 0.0303315, 0.0169518])


@pytest.mark.parametrize("kind,entries,sums,first,last", [
    ("dense", 32, (8.148972, 552.50537), [-1.4380122, -1.4112619, -1.6489484, -0.9831910], [-2.2801971, -1.3350240, -2.2062159, -1.1649493]),
    ("ec", 45, (3.859753, 506.94537), [1.8135891, -0.9832129, 1.4310995, -1.3427358], [2.0143647, -0.9987634, 1.8266828, -0.9830818]),
    ("tc", 45, (3.734157, 513.62012), [1.9409008, -0.8247893, 1.5101529, -1.3655946], [2.0436947, -0.9819102, 1.8367782, -0.9508338]),
])
def test_baselines(kind, entries, sums, first, last):
    model, x, t = tiny(kind)
    assert len(official(model)) == entries
    rec = model.eval().record()
    out, _ = model(x, t, LABELS)
    close(out.sum(), [sums[0]], 1e-4)
    close(out.abs().sum(), [sums[1]])
    close(out[0, 0, 0], first)
    close(out[2, 7, 3], last)
    if kind == "ec":  # one of the four tokens of each sample
        assert rec[1]["selected"].view(3, 4, 4).sum(1).eq(1).all()
    if kind == "tc":
        assert rec[1]["selected"].sum(1).eq(1).all() and rec[1]["counts"].sum() == 12
        assert rec[1]["gate"].argmax(1).equal(rec[1]["selected"].argmax(1))
    trained, loss = model.train()(x, t, LABELS)
    torch.testing.assert_close(trained, out, rtol=1e-5, atol=1e-5)
    if kind == "tc":  # 0.01 times sum over experts of mean probability and E times the share of tokens
        gate, share = rec[1]["gate"], rec[1]["counts"] / 12
        close(loss, [0.01 * (gate.mean(0) * share * 4).sum().item()])
    else:
        assert loss == 0


def test_token_choice_with_two_experts_each():
    model, x, _ = tiny("tc")
    moe = model.eval().blocks[1].mlp
    moe.capacity = 2
    x = wave((12, 16), torch.sin, 0.9, 0.1)
    y, _ = moe.route(x, 4)
    gate = torch.nn.functional.linear(x, moe.gate.weight).softmax(-1)
    every = moe.experts(x.expand(4, 12, 16))
    for s in range(12):
        best = gate[s].argsort(descending=True)[:2]
        expected = sum(gate[s, e] * every[e, s] for e in best)
        torch.testing.assert_close(y[s], expected, rtol=1e-5, atol=1e-5)


def test_static_rule_and_fixed_threshold():
    model, x, t = tiny()
    rec = model.eval().record()
    model.set_rule("static")
    model(x, t, LABELS)
    assert rec[1]["counts"].tolist() == [3, 3, 3, 3]
    model.set_rule("token", gamma=0.0)
    model(x, t, LABELS)
    assert rec[1]["counts"].tolist() == [12] * 4
    model.set_rule("pool", gamma=1.0)
    model(x, t, LABELS)
    assert rec[1]["counts"].tolist() == [0] * 4


def test_eval_per_token():
    model, x, t = tiny()
    model.eval().set_rule("token")
    out, _ = model(x, t, LABELS)
    close(out.sum(), [10.635570], 1e-4)
    close(out[0, 0, 0], [-0.564009, -2.192065, -0.949785, -1.790920])
    alone, _ = model(x[1:2], t[1:2], [LABELS[0][1:2]])
    torch.testing.assert_close(alone, out[1:2], rtol=1e-5, atol=1e-5)  # no influence of batch mates


def test_train_forward():
    model, x, t = tiny()
    rec = model.train().record()
    out, bce = model(x, t, LABELS)
    close(out.sum(), [10.726647], 1e-4)
    close(out.abs().sum(), [583.09442])
    close(out[0, 0, 0], [-0.5941324, -2.2468133, -0.9850792, -1.9083520])
    chosen = [rec[1]["selected"][:, e].nonzero()[:, 0].tolist() for e in range(4)]
    assert chosen == [[0, 8, 9], [3, 6, 7], [5, 6, 7], [7, 9, 11]]
    close(bce, [0.70865566])
    close(model.blocks[1].mlp.expert_threshold, [0.50118440, 0.50136513, 0.50097942, 0.49943113])


def test_first_batch_sets_thresholds():
    model, x, t = tiny()
    moe = model.train().blocks[1].mlp
    moe.threshold_ready.zero_()
    rec = model.record()
    model(x, t, LABELS)
    close(moe.expert_threshold, rec[1]["logits"].sigmoid().sort(0, descending=True).values[2].tolist())


def test_flow_loss_and_gradients():
    model, x, t = tiny()
    model.train()
    noise = wave(x.shape, torch.cos, 0.37, 0.2)
    out, bce = model(flow.mix(x, noise, t), t, [torch.tensor([1, 7, 3])])
    mse = flow.flow_loss(out, x, noise)
    close(mse, [4.5852237, 3.5562258, 3.2077589])
    close(bce, [0.7052253])
    loss = mse.mean() + bce
    close(loss, [4.4882946])
    loss.backward()
    b0, moe = model.blocks[0], model.blocks[1].mlp
    for grad, total, norm in [
        (moe.gate_weight.grad, 0, 0.0708402),
        (moe.experts_fc1_weight.grad[0], -0.0003817, 0.0696082),
        (moe.experts_fc2_bias.grad[2], 0.0019080, 0.0016246),
        (moe.capacity_predictor[0].weight.grad, 0.0031479, 0.1047666),
        (b0.attn.qkv.weight.grad, 0.0705249, 0.3081234),
        (model.x_embedder.proj.weight.grad, 0, 0.6664521),
        (model.y_embedder.embedding_table.weight.grad, -0.1404501, 0.4529420),
        (model.final_layer.linear.weight.grad, -0.1615189, 3.5827851),
        (model.t_embedder.mlp[0].weight.grad, 0.0830976, 0.0854755),
        (b0.adaLN_modulation[1].bias.grad, -0.1512694, 0.2568284),
    ]:
        close(grad.norm(), [norm], 2e-5)
        close(grad.sum(), [total], 2e-5)


@pytest.mark.parametrize("solver,guidance,sums,first,last", [
    ("euler", 1.0, (20.185701, 295.654633), [-0.409802, -1.345469, -0.002790, -1.594720], [0.598359, -1.514791, 1.724094, -1.140262]),
    ("euler", 1.5, (20.102110, 286.825287), [-0.420294, -1.347238, 0.002210, -1.571433], [0.604260, -1.420792, 1.705683, -1.057539]),
    ("heun", 1.5, (20.075554, 285.785034), [-0.389498, -1.311691, 0.011275, -1.607865], [0.615072, -1.395492, 1.710121, -1.014197]),
])
def test_sampling(solver, guidance, sums, first, last):
    model, x, _ = tiny()
    z = sampler.sample(model.eval(), x, [torch.tensor([1, 7, 3])], 4, guidance, solver)
    close(z.sum(), [sums[0]], 1e-4)
    close(z.abs().sum(), [sums[1]])
    close(z[0, 0, 0], first)
    close(z[2, 3, 3], last)


FIXTURES = os.environ.get("DIFFMOE_FIXTURES", "")


def fixture_model(name):
    from safetensors.torch import load_file

    folder = os.path.join(FIXTURES, name)
    with open(os.path.join(folder, "case.json"), encoding="utf-8") as f:
        model = DiT(Config.from_dict(json.load(f))).eval()
    state = load_file(os.path.join(folder, "model.safetensors"))
    model.load_state_dict(from_official(state))
    assert set(official(model)) == set(state)
    return model, load_file(os.path.join(folder, "io.safetensors"))


@pytest.mark.skipif(not os.path.exists(os.path.join(FIXTURES, "diffmoe_flow")) or not FIXTURES,
                    reason="set DIFFMOE_FIXTURES to the parity fixtures")
@pytest.mark.parametrize("name", ["diffmoe_flow", "diffmoe_swiglu_shared", "diffmoe_ddpm", "dense_flow", "ec_flow", "tc_flow"])
def test_parity_with_official_outputs(name):
    model, io = fixture_model(name)
    labels = [io["y"].long()]
    rec = model.record()
    out, _ = model(io["x"], io["t"], labels)
    torch.testing.assert_close(out, io["out"], rtol=0, atol=1e-4)
    if model.dynamic_layers():
        for i, r in rec.items():
            assert torch.equal(r["selected"].to(torch.uint8), io[f"blocks.{i}.selected"])
            assert r["counts"].tolist() == io[f"blocks.{i}.k"].tolist()
    model.record(False)
    if "euler_cfg" not in io:
        return
    for key, steps, g, solver in [("euler_nocfg", 4, 1.0, "euler"), ("euler_cfg", 4, 1.5, "euler"), ("heun_cfg", 3, 1.5, "heun")]:
        z = sampler.sample(model, io["x"], labels, steps, g, solver)
        torch.testing.assert_close(z, io[key], rtol=0, atol=1e-4)


@pytest.mark.skipif(not os.path.exists(os.path.join(FIXTURES, "diffmoe_flow")) or not FIXTURES,
                    reason="set DIFFMOE_FIXTURES to the parity fixtures")
def test_official_order_of_names():
    path = os.path.join(FIXTURES, "diffmoe_flow", "checkpoint.pt")
    published = torch.load(path, weights_only=False, map_location="cpu")["ema"]
    assert list(official(fixture_model("diffmoe_flow")[0])) == list(published)
