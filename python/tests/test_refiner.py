"""A model with a refiner: a run is that of the base alone up to the refiner's first step, and that of the refiner alone from
there on. The files have random weights."""

import json
import os
import subprocess
from copy import deepcopy
from dataclasses import replace

import numpy as np
import onnxruntime
import pytest
from conftest import error
from refined import document, write, write_with_prompts
from safetensors.numpy import load_file

from diffmoe import Config, ModelError, Pipeline, SettingsError, Trace, TraceError, schedulers, weights
from diffmoe.model import Model
from diffmoe.onnx import ROUTINGS
from diffmoe.onnx import main as onnx_main
from diffmoe.routing import Routing
from diffmoe.sampling import Run, sample
from diffmoe.settings import cycle_spin

STEPS, BASE_STEPS, IMAGES = 6, 3, 2
LABELS = [np.array([1, 4]), np.array([0, 2])]
#: In a refined run of two images: passes of the base.
COARSE = {"euler": 6, "heun": 12, "dpmpp_2m": 6, "unipc": 6}


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return write(tmp_path_factory.mktemp("refiner") / "two.safetensors", document())


@pytest.fixture(scope="module")
def pipe(file):
    return Pipeline.from_pretrained(file)


def alone(model: Model) -> Model:
    """The base without its refiner."""
    return Model(replace(model.config, refiner=None), model.weights)


class ByHand:
    """Stands in for a run: sends each step to that of the base or of the refiner, and averages over shifts itself."""

    def __init__(self, base: Run, refiner: Run, spin=(1, 0.0), by=0):
        self.config, self.runs, self.spin, self.by = base.config, (base, refiner), spin, by

    def guided(self, z, time):
        run = self.runs[self.runs[0].step >= BASE_STEPS]
        out = run.guided(z, time)
        if self.spin[0] == 1 or time < self.spin[1]:
            return out
        noted = len(run.passes)
        moved = run.guided(np.roll(z, (self.by, self.by), (2, 3)), time)
        del run.passes[noted:]
        return (out + np.roll(moved, (-self.by, -self.by), (2, 3))) / np.float32(2)

    def sample(self, scheduler, z):
        stepper = schedulers.resolve(scheduler, self.config, STEPS).begin(self, STEPS)
        for i in range(STEPS):
            for run in self.runs:
                run.begin_step(i)
            z = stepper.step(i, z).astype(np.float32)
        return z


def noise(shape=(3, 16, 8)) -> np.ndarray:
    return np.random.default_rng(3).standard_normal((IMAGES, *shape)).astype(np.float32)


@pytest.mark.parametrize("rule", ["token", "pool"])
@pytest.mark.parametrize("scheduler", COARSE)
def test_the_refiner_takes_the_last_steps(pipe, scheduler, rule):
    routing, model = Routing(rule), pipe.model
    # From the time 0.3 on the base shifts too, by the patches of the refiner.
    for spin in ((1, 0.0), (2, 0.3)):
        run = Run(model, LABELS, guidance=1.5, routing=routing, cycle_spin=spin)
        got = sample(run, schedulers.resolve(scheduler, pipe.config, STEPS), STEPS, noise())
        base, refiner = (Run(of, LABELS, guidance=1.5, routing=routing) for of in (alone(model), model.refiner))
        assert np.array_equal(got, ByHand(base, refiner, spin, by=1).sample(scheduler, noise()))
        assert [p.scale for p in run.passes] == [2] * len(base.passes) + [1] * len(refiner.passes)
        assert len(base.passes) == COARSE[scheduler]
        for got_pass, wanted in zip(run.passes, base.passes + refiner.passes):
            assert (got_pass.step, got_pass.time, got_pass.guided) == (wanted.step, wanted.time, wanted.guided)
            for a, b in zip(got_pass.layers, wanted.layers, strict=True):
                assert np.array_equal(a.taken, b.taken) and np.array_equal(a.need, b.need)
    # Heun's method ends the last step of the base where the refiner begins.
    assert max(p.time for p in base.passes) == pytest.approx(0.5 if scheduler == "heun" else 1 / 3)


def test_a_step_begins_at_a_rounded_time():
    config = Config.from_dict(document())
    assert [config.is_refined(t) for t in (0.49, 0.499995, 0.5, 1.0)] == [False, True, True, True]
    assert not config.refiner.is_refined(0.7)
    for steps in range(1, 200):
        late = replace(config, refiner_from=0.7)
        assert late.is_refined(np.float32(7 * steps) / np.float32(10 * steps))


def test_a_run_from_an_image_may_begin_with_the_refiner(pipe):
    image = np.random.default_rng(0).normal(size=(3, 16, 8)).astype(np.float32)
    arguments = {"seed": 1, "num_inference_steps": 6, "scheduler": "heun", "image": image}
    out = pipe(**arguments, strength=0.4)
    assert out.trace.scale is None and out.trace.steps == 2 and out.trace.grid == (8, 4)
    assert set(pipe(**arguments, strength=1.0).trace.scale) == {1, 2}


def test_blends_are_of_the_labels_of_each_model(pipe):
    draw = lambda **more: pipe(seed=3, num_inference_steps=4, output_type="latent", **more)  # noqa: E731
    tables = [(model, model.config.labels[0].tensor) for model in (pipe.model, pipe.model.refiner)]
    kept = [model.weights[name][2].copy() for model, name in tables]
    share = np.float32(0.3)
    try:
        for model, name in tables:
            rows = model.weights[name]
            rows[2] = (np.float32(1) - share) * rows[1] + share * rows[4]
        wanted = draw(labels={"subject": 2, "style": 1}).samples
    finally:
        for (model, name), row in zip(tables, kept):
            model.weights[name][2] = row
    out = draw(labels={"subject": 1, "style": 1}, mix_labels={"subject": 4}, mix_strength=0.3)
    assert np.array_equal(out.samples, wanted)
    assert error(out.samples, draw(labels={"subject": 1, "style": 1}).samples) > 1e-4


def test_prompts_are_read_by_the_encoder_of_each_model(tmp_path):
    pipe = Pipeline.from_pretrained(write_with_prompts(tmp_path / "m.safetensors"))
    base, refiner = Pipeline(alone(pipe.model)), Pipeline(pipe.model.refiner)
    prompts, negative, z = ["a red robot", "blob"], ["fluent"] * IMAGES, noise((3, 6, 6))
    runs = [
        Run(p.model, [], p._encode(prompts), p._encode(negative), guidance=1.8, routing=Routing("token"))
        for p in (base, refiner)
    ]
    wanted = ByHand(*runs).sample("dpmpp_2m", z)
    arguments = {"negative_prompt": "fluent", "guidance_scale": 1.8, "num_inference_steps": STEPS, "scheduler": "dpmpp_2m"}
    out = pipe(prompt=prompts, latents=z, seed=1, **arguments)
    assert np.array_equal(out.samples, wanted)
    assert out.trace.grid == (6, 6) and out.trace.labels == [prompts]


def traced(pipe, **more) -> Trace:
    arguments = {"labels": {"subject": [1, 4], "style": [0, 2]}, "seed": 5, "num_inference_steps": STEPS, "scheduler": "heun"}
    return pipe(**arguments | more, guidance_scale=1.5, trace_scores=True).trace


def test_a_trace_has_the_grid_of_the_refiner(pipe):
    got = traced(pipe)
    got.check()
    assert got.grid == (8, 4) and got.images == IMAGES and got.scale.tolist() == [2] * 12 + [1] * 10
    assert got.thresholds.shape == (22, 1, 4) and got.thresholds.dtype == np.float32
    for model, thresholds in ((pipe.model, got.thresholds[:12]), (pipe.model.refiner, got.thresholds[12:])):
        assert (thresholds == model.weights["blocks.1.mlp.expert_threshold"]).all()
    run = Run(pipe.model, LABELS, guidance=1.5, routing=Routing("token"))
    sample(run, schedulers.resolve("heun", pipe.config, STEPS), STEPS, pipe._noise(5, IMAGES, None))
    for f, one in enumerate(run.passes):
        (layer,), grid = one.layers, (8 // one.scale, 4 // one.scale)
        for image, row, column in np.ndindex(IMAGES, 8, 4):
            at = image * 32 + row * 4 + column
            token = image * grid[0] * grid[1] + row // one.scale * grid[1] + column // one.scale
            assert got.taken()[f, 0, at].tolist() == layer.taken[token].tolist()
            assert got.need[f, 0, at].tolist() == layer.need[token].astype(np.float16).tolist()
            assert got.gate[f, 0, at].tolist() == layer.gate[token].astype(np.float16).tolist()
    # Counts are of patches, and the capacity of a pass does not depend on the size of its tokens.
    assert got.counts()[0, 0].tolist() == (4 * run.passes[0].layers[0].taken.sum(0)).tolist()
    assert "<svg" in got.to_html() and len(got.table("expert")) == STEPS * 4
    assert got.maps(0).shape == (1, IMAGES, 8, 4)


def same(a: Trace, b: Trace):
    for name in ("model", "experts", "labels", "grid"):
        assert getattr(a, name) == getattr(b, name)
    for name in ("blocks", "step", "time", "guided", "masks", "gate", "need", "thresholds", "scale"):
        x, y = getattr(a, name), getattr(b, name)
        assert x.dtype == y.dtype and np.array_equal(x, y), name


@pytest.mark.parametrize("extension", ["json", "safetensors"])
def test_traces_keep_the_size_of_tokens(pipe, extension, tmp_path):
    got, path = traced(pipe, mute=[(1, 2)]), tmp_path / f"t.{extension}"
    assert np.isinf(got.thresholds[..., 2]).all()
    got.save(path)
    same(Trace.load(path), got)
    joined = traced(pipe, mute=[(1, 2)], batch_size=1)
    joined.check()
    for name in ("masks", "scale", "thresholds", "step"):
        assert np.array_equal(getattr(joined, name), getattr(got, name)), name
    # With one threshold for all there is nothing to tell apart.
    assert traced(pipe, gamma=0.4).thresholds.shape == (1, 4)
    fine = replace(got, scale=None)
    fine.save(path)
    assert b"scale" not in path.read_bytes() and Trace.load(path).scale is None
    for wrong in (0, 3):
        replace(got, scale=np.full(22, wrong, np.uint32)).save(path)
        with pytest.raises(TraceError, match="do not divide the grid"):
            Trace.load(path)
    with pytest.raises(TraceError, match="passes or layers do not match"):
        replace(got, scale=got.scale[1:]).check()
    with pytest.raises(TraceError, match="thresholds do not match"):
        replace(got, thresholds=got.thresholds[1:]).check()


def test_json_leaves_out_what_is_one(pipe, tmp_path):
    traced(pipe).save(tmp_path / "t.json")
    forwards = json.loads((tmp_path / "t.json").read_text())["forwards"]
    assert [forward.get("scale") for forward in forwards] == [2] * 12 + [None] * 10
    assert forwards[0]["layers"][0]["thresholds"] != forwards[-1]["layers"][0]["thresholds"]
    traced(pipe).save(tmp_path / "t.safetensors")
    stored = load_file(tmp_path / "t.safetensors")
    assert stored["scale"].dtype == np.uint32 and stored["thresholds"].shape == (22, 1, 4)


def test_shifts_are_parts_of_the_finest_patch(pipe):
    assert cycle_spin(pipe.config, 2) == (2, 0.85)
    with pytest.raises(SettingsError, match="patches of at least 4 pixels; this model's have 2"):
        cycle_spin(pipe.config, 4)
    of = document() | {"defaults": {"cycle_spin": "4,0.6"}}
    assert cycle_spin(Config.from_dict(of), None) == (2, 0.6)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"from": 0}, "a time between 0 and 1"),
        ({"from": 1.5}, "a time between 0 and 1"),
        ({"from": float("nan")}, "a time between 0 and 1"),
        ({"from": None}, "wrong type"),
        ({"params": None}, "a refiner needs params"),
        ({"input_size": [8, 8]}, "with other samples"),
        ({"in_channels": 4}, "with other samples"),
        ({"prediction": "velocity", "detail_head": None}, "with other samples"),
        ({"MoE_config": {"num_experts": 8}}, "with other experts"),
        ({"depth": 4}, "with other experts"),
        ({"patch_size": 8}, "with patches of 8, which do not divide those of 4"),
        ({"patch_size": 3}, "must be a multiple of patch_size 3"),
    ],
)
def test_refiners_that_do_not_fit_are_refused(change, reason):
    of = document()
    of["refiner"] |= {key: change[key] for key in change if key in ("from", "params")}
    if of["refiner"]["params"]:
        of["refiner"]["params"] |= {key: change[key] for key in change if key not in ("from", "params")}
    with pytest.raises(ModelError) as caught:
        Config.from_dict(of)
    assert reason in str(caught.value)


def test_other_documents():
    of = document()
    del of["refiner"]["from"]
    with pytest.raises(ModelError, match="no key 'from'"):
        Config.from_dict(of)
    with pytest.raises(ModelError, match="wrong type"):
        Config.from_dict(document() | {"refiner": [0.5]})
    ddpm = deepcopy(document()) | {"t_kind": "ddpm"}
    for part in (ddpm, ddpm["refiner"]):
        part["params"] |= {"prediction": "velocity", "detail_head": None}
    with pytest.raises(ModelError, match="only flow models"):
        Config.from_dict(ddpm)
    config = Config.from_dict(document())
    assert config.finest is config.refiner and config.refiner.finest is config.refiner and config.refiner.refiner is None
    assert (config.refiner.grid, config.refiner.labels) == ((8, 4), config.labels)


def test_files_hold_both_models(file, pipe, tmp_path):
    stored = load_file(file)
    assert pipe.model.weights["x_embedder.proj.weight"].shape == (32, 3, 4, 4)
    assert pipe.model.refiner.weights["x_embedder.proj.weight"].shape == (32, 3, 2, 2)
    assert pipe.model.refiner.refiner is None and "refiner from t = 0.5" in repr(pipe)
    assert len(stored) == len(pipe.model.weights) + len(pipe.model.refiner.weights)
    del stored["refiner.pos_embed"]
    stored["refiner.extra"] = np.zeros(3, np.float32)
    with pytest.raises(ModelError) as caught:
        weights.load(write(tmp_path / "m.safetensors", document(), stored))
    for text in ("refiner.pos_embed [1, 32, 32] is missing", "refiner.extra is not part"):
        assert text in str(caught.value)
    without = {key: value for key, value in document().items() if key != "refiner"}
    with pytest.raises(ModelError, match="refiner.blocks.0.*is not part"):
        weights.load(write(tmp_path / "m.safetensors", without, load_file(file)))


@pytest.mark.parametrize("form", ROUTINGS)
def test_two_graphs_draw_what_the_pipeline_draws(file, pipe, form, tmp_path, capsys):
    """Which graph computes a step is read from their metadata alone."""
    out = tmp_path / "two.onnx"
    assert onnx_main([str(file), str(out), "--routing", form]) == 0
    paths = [out, tmp_path / "two-refiner.onnx"]
    assert capsys.readouterr().out.split() == [str(path) for path in paths]
    graphs = {}
    for path in paths:
        graph = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        known = graph.get_modelmeta().custom_metadata_map
        assert json.loads(known["diffmoe"]) == document()
        graphs[known["diffmoe.part"]] = graph
        start = float(known["diffmoe.refiner_from"])
    z, nulls, taken = noise(), [np.full(IMAGES, table.null) for table in pipe.config.labels], []
    for i in range(STEPS):
        time = i / STEPS
        taken.append("refiner" if time >= start else "model")
        asked = {"x": z, "t": np.full(IMAGES, time, np.float32)}
        data, null = (
            graphs[taken[-1]].run(None, asked | {table.name: rows for table, rows in zip(pipe.config.labels, labels)})[0]
            for labels in (LABELS, nulls)
        )
        z = z + (null + np.float32(1.5) * (data - null) - z) / np.float32((1 - time) * STEPS)
    assert taken == ["model"] * BASE_STEPS + ["refiner"] * (STEPS - BASE_STEPS)
    settings = {"num_inference_steps": STEPS, "guidance_scale": 1.5, "scheduler": "euler", "output_type": "latent"}
    wanted = pipe(labels={"subject": [1, 4], "style": [0, 2]}, latents=noise(), **settings).samples
    assert error(z, wanted) < 1e-4


def tool() -> str | None:
    """Path of the ``diffmoe`` binary; None if there is none, or it does not support refiners."""
    path = os.environ.get("DIFFMOE")
    if path is None or b"--refiner" not in subprocess.run([path, "convert", "--help"], capture_output=True).stdout:
        return None
    return path


LABELLED = "--class 1,4 --style 0,2", {"labels": {"subject": [1, 4], "style": [0, 2]}}
BLENDED = "--mix-class 2 --mix-strength 0.3", {"mix_labels": {"subject": 2}, "mix_strength": 0.3}
PROMPTED = "--prompt robot --prompt blob --negative fluent", {"prompt": ["robot", "blob"], "negative_prompt": "fluent"}
RUNS = [(scheduler, *LABELLED, spin) for scheduler in COARSE for spin in ("1", "2,0.3")]
RUNS += [("euler", *(a + " " + b if isinstance(a, str) else a | b for a, b in zip(LABELLED, BLENDED)), "1")]
RUNS += [("dpmpp_2m", *PROMPTED, "1")]


@pytest.mark.skipif(tool() is None, reason="DIFFMOE does not name a command that knows refiners")
@pytest.mark.parametrize(("scheduler", "options", "arguments", "spin"), RUNS)
def test_samples_are_those_of_the_rust_program(file, scheduler, options, arguments, spin, tmp_path):
    model = write_with_prompts(tmp_path / "m.safetensors") if "prompt" in arguments else file
    options += f" --count 2 --seed 5 --guidance 1.5 --steps {STEPS} --scheduler {scheduler} --cycle-spin {spin}"
    settings = [*options.split(), "--backend", "cpu", "--trace-scores"]
    for form in ("json", "safetensors"):
        files = ["--latents", tmp_path / "z.safetensors", "--trace", tmp_path / f"t.{form}", "--out", tmp_path / "x.png"]
        subprocess.run([tool(), "sample", "--model", model, *settings, *files], check=True, capture_output=True)
    count, *start = spin.split(",")
    ours = Pipeline.from_pretrained(model)(
        **arguments,
        seed=5,
        num_inference_steps=STEPS,
        guidance_scale=1.5,
        scheduler=scheduler,
        cycle_spin=(int(count), *map(float, start)),
        trace_scores=True,
    )
    assert error(ours.samples, load_file(tmp_path / "z.safetensors")["latents"]) < 1e-3
    mine = ours.trace
    assert 0.1 < mine.taken().mean() < 0.9
    for form in ("json", "safetensors"):
        theirs = Trace.load(tmp_path / f"t.{form}")
        assert theirs.grid == mine.grid and theirs.labels == mine.labels
        for name in ("scale", "step", "guided", "time", "blocks"):
            assert np.array_equal(getattr(theirs, name), getattr(mine, name)), name
        assert np.count_nonzero(theirs.taken() != mine.taken()) <= 0.001 * mine.taken().size
        assert error(theirs.need, mine.need) < 2e-3 and error(theirs.gate, mine.gate) < 2e-3
        assert theirs.thresholds.shape == mine.thresholds.shape and error(theirs.thresholds, mine.thresholds) < 1e-6
        theirs.save(tmp_path / f"again.{form}")
        same(Trace.load(tmp_path / f"again.{form}"), theirs)
    # What is written has the keys, or the tensors, that the program writes.
    written, read = (load_file(tmp_path / f"{name}.safetensors") for name in ("t", "again"))
    assert {k: (v.shape, v.dtype) for k, v in written.items()} == {k: (v.shape, v.dtype) for k, v in read.items()}
    written, read = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("t", "again"))
    assert [list(forward) for forward in written["forwards"]] == [list(forward) for forward in read["forwards"]]
