"""Traces of the Rust program: reading, tables, writing."""

import json
from dataclasses import replace

import numpy as np
import pytest
from conftest import DATA, error
from safetensors.numpy import load_file

from diffmoe import Trace, TraceError

FILES = ["eurosat.json", "prompts.json", "prompts.safetensors"]


def same(a: Trace, b: Trace):
    assert (a.model, a.experts, tuple(a.grid), a.labels) == (b.model, b.experts, tuple(b.grid), b.labels)
    for name in ("blocks", "step", "time", "guided", "masks", "gate", "need", "thresholds"):
        x, y = getattr(a, name), getattr(b, name)
        assert (x is None) == (y is None), name
        assert x is None or (x.dtype == y.dtype and np.array_equal(x, y)), name


@pytest.mark.parametrize("name", FILES)
def test_the_table_is_what_the_command_prints(name):
    trace = Trace.load(DATA / name)
    wanted = (DATA / name).with_suffix(".csv").read_text().splitlines()
    got = trace.to_csv().splitlines()
    assert got[0] == wanted[0] and len(got) == len(wanted) > 2
    for line, recorded in zip(got[1:], wanted[1:]):
        cells, numbers = ([float(cell) for cell in text.split(",")] for text in (line, recorded))
        assert cells == pytest.approx(numbers, abs=1e-12)


def test_capacities_and_counts_match_the_document():
    document, trace = json.loads((DATA / "eurosat.json").read_text()), Trace.load(DATA / "eurosat.json")
    assert trace.capacity == pytest.approx(document["capacity"], rel=1e-6)
    assert trace.capacity_by_step() == pytest.approx(document["capacity_by_step"], rel=1e-6)
    assert trace.capacity_by_image() == pytest.approx(document["capacity_by_picture"], rel=1e-6)
    layers = [layer for forward in document["forwards"] for layer in forward["layers"]]
    assert trace.counts().reshape(-1, 8).tolist() == [layer["counts"] for layer in layers]
    # `diffmoe trace` prints: whole run 0.87 0.70 2.41 10% 32%, block 5 0.86 0.82 1.72 0% 24%, step 2 0.84 0.58 2.86 25% 33%.
    rows = {row.pop("part"): list(row.values()) for row in trace.summary()}
    assert list(rows) == ["whole run", "block 1", "block 3", "block 5", "step 0", "step 1", "step 2"]
    assert [round(v, 2) for v in rows["whole run"]] == [0.87, 0.7, 2.41, 0.1, 0.32]
    assert [round(v, 2) for v in rows["block 5"]] == [0.86, 0.82, 1.72, 0.0, 0.24]
    assert [round(v, 2) for v in rows["step 2"]] == [0.84, 0.58, 2.86, 0.25, 0.33]


def test_both_forms_hold_the_same():
    same(Trace.load(DATA / "prompts.json"), Trace.load(DATA / "prompts.safetensors"))


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("extension", ["json", "safetensors"])
def test_what_is_written_is_read_again(name, extension, tmp_path):
    trace = Trace.load(DATA / name)
    trace.save(tmp_path / f"t.{extension}")
    same(Trace.load(tmp_path / f"t.{extension}"), trace)


@pytest.mark.parametrize("extension", ["json", "safetensors"])
def test_more_experts_than_bits_in_32(extension, tmp_path):
    few = Trace.load(DATA / "eurosat.json")
    masks = few.masks.astype(np.uint64)
    many = replace(few, experts=64, masks=masks | masks << np.uint64(56), gate=None, need=None, thresholds=None)
    many.check()
    assert many.counts()[..., :8].tolist() == many.counts()[..., 56:].tolist() == few.counts().tolist()
    assert many.taken()[..., 60].tolist() == few.taken()[..., 4].tolist()
    many.save(tmp_path / f"t.{extension}")
    same(Trace.load(tmp_path / f"t.{extension}"), many)


def test_written_files_are_those_of_the_rust_program(tmp_path):
    """The same document, and the same tensors."""
    Trace.load(DATA / "prompts.json").save(tmp_path / "t.json")
    for name in ("eurosat.json", "prompts.json"):
        Trace.load(DATA / name).save(tmp_path / "t.json")
        ours, theirs = (json.loads(path.read_text()) for path in (tmp_path / "t.json", DATA / name))
        near(ours, theirs)
    Trace.load(DATA / "prompts.safetensors").save(tmp_path / "t.safetensors")
    ours, theirs = load_file(tmp_path / "t.safetensors"), load_file(DATA / "prompts.safetensors")
    assert ours.keys() == theirs.keys()
    assert all(np.array_equal(ours[key], theirs[key]) and ours[key].dtype == theirs[key].dtype for key in ours)


def near(a, b):
    """Equal documents, numbers to a rounding of float32."""
    assert type(a) is type(b) or {type(a), type(b)} == {int, float}
    if isinstance(a, dict):
        assert list(a) == list(b)
        for key in a:
            near(a[key], b[key])
    elif isinstance(a, list):
        assert len(a) == len(b)
        for x, y in zip(a, b):
            near(x, y)
    elif isinstance(a, float):
        assert a == pytest.approx(b, rel=2e-7)
    else:
        assert a == b


def test_a_run_gives_the_trace_of_the_rust_program(eurosat, tiny):
    ours = eurosat(labels=["Residential", "River"], seed=7, num_inference_steps=3, scheduler="heun").trace
    theirs = Trace.load(DATA / "eurosat.json")
    assert np.array_equal(ours.step, theirs.step) and np.array_equal(ours.guided, theirs.guided)
    assert np.array_equal(ours.time, theirs.time) and ours.labels == theirs.labels
    changed = np.count_nonzero(ours.taken() != theirs.taken())
    assert changed <= 0.001 * ours.taken().size, "different rounding may change close decisions"

    arguments = {"prompt": ["a red robot", "A Robot, fluent 3D"], "negative_prompt": "blob", "guidance_scale": 1.8}
    arguments |= {"num_images": 3, "seed": 5, "num_inference_steps": 4, "scheduler": "dpmpp_2m", "routing": "pool"}
    ours, theirs = tiny(**arguments, mute=[(1, 2)], trace_scores=True).trace, Trace.load(DATA / "prompts.safetensors")
    assert np.array_equal(ours.masks, theirs.masks)
    assert error(ours.gate, theirs.gate) < 2e-3 and error(ours.need, theirs.need) < 2e-3
    finite = np.isfinite(theirs.thresholds)
    assert np.array_equal(finite, np.isfinite(ours.thresholds))
    assert error(ours.thresholds[finite], theirs.thresholds[finite]) < 1e-6


def test_tables_in_every_form():
    trace = Trace.load(DATA / "eurosat.json")
    experts = trace.table("expert")
    assert len(experts) == 3 * 3 * 8
    row = experts[8 * 3 + 1]  # step 1, block 1, expert 1
    assert (row["step"], row["block"], row["expert"]) == (1, 1, 1)
    of_step = trace.counts()[trace.step == 1, 0].sum(0)
    assert row["tokens"] == of_step[1] and row["load_over_fair_share"] == pytest.approx(8 * of_step[1] / of_step.sum())
    layers = trace.table(form="array")
    assert layers.dtype.names[:4] == ("step", "time", "block", "capacity") and len(layers) == 9
    assert layers["capacity"].tolist() == [row["capacity"] for row in trace.table()]
    images = trace.table("image")
    assert [row["labels"] for row in images] == ["Residential", "River"]
    with pytest.raises(ValueError, match="layer, expert, image"):
        trace.table("class")
    with pytest.raises(ValueError, match="records"):
        trace.table(form="list")


def test_tables_as_data_frames():
    import pandas

    frame = Trace.load(DATA / "eurosat.json").table("expert", "pandas")
    assert isinstance(frame, pandas.DataFrame) and frame.groupby("block")["tokens"].sum().min() > 0


def test_maps_and_experts_per_token():
    trace = Trace.load(DATA / "eurosat.json")
    maps = trace.maps(1)
    assert maps.shape == (3, 2, 8, 8)
    assert np.array_equal(maps[0, 1].reshape(-1), trace.masks[(trace.step == 1) & trace.guided][0, 0, 64:])
    assert np.array_equal(trace.experts_per_token(), trace.taken().sum(-1))
    with pytest.raises(TraceError, match="steps 0 to 2"):
        trace.maps(3)
    assert "2 images of 8×8 tokens, 3 steps, 3 layers of 8 experts" in repr(trace)


def test_balance_of_no_work():
    from diffmoe.balance import load

    assert load([0] * 4, 9, 9) == {
        "capacity": 0.0,
        "effective_experts": None,
        "largest_load": None,
        "dead": 1.0,
        "skipped": 1.0,
    }
    row = load([4, 0], 4, 0)
    assert (row["effective_experts"], row["largest_load"], row["dead"]) == (0.5, 2.0, 0.5)


def document(**changes):
    """A small trace; ``changes`` replace keys of the document or of its only layer."""
    layer = {"block": 1, "capacity": 1.0, "counts": [1, 1], "masks": [1, 2]}
    layer |= {key: changes.pop(key) for key in list(changes) if key in ("masks", "gate", "need", "thresholds")}
    forward = {"step": 0, "time": 0.5, "guided": True, "layers": [layer]}
    whole = {"format": 1, "model": "x", "experts": 2, "grid": [1, 2], "labels": [["a"]], "forwards": [forward]}
    return json.dumps(whole | changes).encode()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"hello", "not a trace"),
        (b'{"format":9}', "format 9"),
        (b'{"model":1}', "not a trace"),
        (document(grid=[0, 0]), "a grid of 0 × 0"),
        (document(masks=[1, 4]), "beyond its 2 experts"),
        (document(masks=[1]), "masks of 1 tokens and 2 experts"),
        (document(labels=[["a", "b"]]), "does not match 1 images"),
        (document(experts=65), "65 experts, more than 64"),
        (document(format=2, gate=[0, 1, 2]), "not a trace"),
        (document(format=2, gate=[0] * 4, need=[0] * 4), "thresholds do not match"),
        (b"\x08\0\0\0\0\0\0\0{}      ", "not a trace"),
    ],
)
def test_invalid_files_are_refused(tmp_path, data, reason):
    file = tmp_path / "x"
    file.write_bytes(data)
    with pytest.raises(TraceError) as caught:
        Trace.load(file)
    assert reason in str(caught.value)
    file.write_bytes(document())
    assert Trace.load(file).capacity == 1


def test_arrays_of_another_type_are_refused(tmp_path):
    tensors = load_file(DATA / "prompts.safetensors")
    for name, change in [("masks", np.float32), ("time", np.uint32), ("gate", np.float32)]:
        trace = Trace.load(DATA / "prompts.safetensors")
        setattr(trace, name, tensors[name].astype(change))
        with pytest.raises(TraceError, match=f"{name} is {np.dtype(change)} with"):
            trace.check()
