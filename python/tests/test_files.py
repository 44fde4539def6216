"""Model files in every precision, sharded and damaged."""

import json
import struct

import numpy as np
import pytest
from conftest import ASSETS, FIXTURES, error
from safetensors.numpy import load_file, save_file

from diffmoe import Config, ModelError, Pipeline, formats, weights, writing
from diffmoe.files import TensorFile

SOURCE = FIXTURES / "t2i_tiny"


def config_text():
    return TensorFile(SOURCE / "model.safetensors").config_text


def write(path, tensors, metadata=True):
    save_file(tensors, path, {"diffmoe": config_text()} if metadata else None)
    return path


@pytest.mark.parametrize("form", ["f16", "int8", "int4"])
def test_precisions(form, tmp_path):
    exact, stored, wanted = load_file(SOURCE / "model.safetensors"), {}, {}
    for name, values in exact.items():
        stored[name] = wanted[name] = values
        if not formats.is_matrix(name, values.shape):
            continue
        if form == "f16":
            stored[name] = values.astype(np.float16)
            wanted[name] = stored[name].astype(np.float32)
        elif form == "int8":
            stored[name], stored[f"{name}.scale"] = formats.to_int8(values)
            wanted[name] = stored[name] * stored[f"{name}.scale"][:, None]
        else:
            stored[name], stored[f"{name}.scale"] = formats.to_int4(values)
            wanted[name] = formats.from_int4(stored[name], stored[f"{name}.scale"].astype(np.float32))
    config, got = weights.load(write(tmp_path / "m.safetensors", stored))
    assert config.name == "unnamed" and got.keys() == wanted.keys()
    for name in got:
        assert got[name].dtype == np.float32 and np.array_equal(got[name], wanted[name].astype(np.float32)), name
    changed = max(error(got[name], exact[name]) for name in got)
    assert 0 < changed < {"f16": 1e-3, "int8": 1e-2, "int4": 0.2}[form]


def matrices():
    """(configuration, its matrices) of the file with which the Rust program is tested, too."""
    lines = (FIXTURES / "matrix_names.txt").read_text(encoding="utf-8").splitlines()
    cases = []
    for line in lines:
        if line.startswith("{"):
            cases.append((line, []))
        elif line and not line.startswith("#"):
            cases[-1][1].append(line)
    return cases


@pytest.mark.parametrize("text, names", matrices())
def test_the_matrices_are_those_of_the_rust_program(text, names):
    random = np.random.default_rng(0)
    tensors = {n: random.normal(size=shape).astype(np.float32) for n, shape in weights.tensors(Config.from_json(text))}
    stored = formats.encode(tensors, "int8")
    assert sorted(name for name, values in stored.items() if values.dtype == np.int8) == sorted(names)


@pytest.mark.parametrize("dtype", formats.FORMATS)
def test_what_is_written_is_read(dtype, tmp_path):
    config, exact = weights.load(SOURCE / "model.safetensors")
    stored = formats.encode(exact, dtype)
    writing.write(tmp_path / "m.safetensors", json.loads(config_text()), stored)
    again, read = weights.load(tmp_path / "m.safetensors")
    assert again == config and read.keys() == exact.keys()
    for name, values in read.items():
        if dtype == "f32" or formats.decides_routing(name) or name.endswith(formats.STATE):
            assert np.array_equal(values, exact[name])
        elif dtype.startswith("int") and formats.is_matrix(name, values.shape):
            # The numbers of int4 end at 7, so those of the sign that has no -8 may lose a whole step.
            most = 0.5001 if dtype == "int8" else 1.01
            assert np.abs(values - exact[name]).max() <= most * np.abs(stored[name + formats.SCALE]).max()
        else:
            assert np.array_equal(values, exact[name].astype(np.float16).astype(np.float32))


def test_rows_of_zeros_can_be_stored_as_integers():
    stored, scale = formats.to_int8(np.array([[0, 0], [-2, 1]], np.float32))
    assert stored.tolist() == [[0, 0], [-127, 64]] and (scale > 0).all()


def test_int4_bytes_are_those_of_the_rust_program():
    # src/checkpoint/quantise.rs has the same test: 7 is in the low nibble of the first byte, 6 in the high nibble.
    stored = np.array([[0x67, 0x45, 0x23, 0x01, 0xEF, 0xCD, 0xAB, 0x89]], np.uint8)
    values = np.arange(-7, 9, dtype=np.float32)[None] * 0.25
    assert np.array_equal(formats.from_int4(stored, np.array([[-0.25]], np.float32)), values)
    numbers, scale = formats.to_int4(values)
    assert np.array_equal(numbers, stored) and scale.tolist() == [[-0.25]]
    numbers, scale = formats.to_int4(np.array([[0, 1e-9, 1e9, -2e9]], np.float32))
    assert scale.tolist() == [[65504.0]] and np.isfinite(formats.from_int4(numbers, scale.astype(np.float32))).all()
    assert formats.to_int4(np.zeros((1, 34), np.float32))[1].shape == (1, 2)


def test_bfloat16(tmp_path):
    exact = load_file(SOURCE / "model.safetensors")
    name = "blocks.0.attn.qkv.weight"
    halves = (exact[name].view(np.uint32) >> 16).astype("<u2")
    file = write(tmp_path / "m.safetensors", {**exact, name: halves})
    data = file.read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + length])
    header[name]["dtype"] = "BF16"
    text = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])
    got = weights.load(file)[1][name]
    assert np.array_equal(got.view(np.uint32), halves.astype(np.uint32) << 16)


def test_sharded_files(tmp_path):
    tensors = load_file(SOURCE / "model.safetensors")
    names = sorted(tensors)
    parts = {"m-00001-of-00002.safetensors": names[::2], "m-00002-of-00002.safetensors": names[1::2]}
    for file, part in parts.items():
        write(tmp_path / file, {name: tensors[name] for name in part})
    index = tmp_path / "m.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {name: file for file, part in parts.items() for name in part}}))
    assert all(np.array_equal(values, tensors[name]) for name, values in weights.load(index)[1].items())
    (tmp_path / "m-00002-of-00002.safetensors").unlink()
    with pytest.raises(ModelError, match="m-00002-of-00002.safetensors, which is missing"):
        weights.load(index)
    index.write_text(json.dumps({"weight_map": {"x": "../m.safetensors"}}))
    with pytest.raises(ModelError, match="same folder as their index"):
        weights.load(index)


def test_the_configuration_may_be_in_the_same_folder(tmp_path):
    write(tmp_path / "model.safetensors", load_file(SOURCE / "model.safetensors"), metadata=False)
    with pytest.raises(ModelError, match="has no model description"):
        Pipeline.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(config_text())
    assert Pipeline.from_pretrained(tmp_path).config.text is not None


def test_every_mismatch_is_reported_at_once(tmp_path):
    tensors = load_file(SOURCE / "model.safetensors")
    del tensors["pos_embed"]
    tensors["extra"] = np.zeros(3, np.float32)
    tensors["text_pool.bias"] = np.zeros(5, np.float32)
    tensors["blocks.0.attn.proj.weight"] = tensors["blocks.0.attn.proj.weight"].astype(np.int32)
    with pytest.raises(ModelError) as caught:
        weights.load(write(tmp_path / "m.safetensors", tensors))
    for text in ("pos_embed [1, 9, 16] is missing", "text_pool.bias has shape [5], expected [16]", "extra is not part"):
        assert text in str(caught.value)


def test_broken_files_are_refused(tmp_path):
    tensors = load_file(SOURCE / "model.safetensors")
    for change, reason in [
        (lambda t: t.update({"text_pool.bias": np.full(16, np.nan, np.float32)}), "NaN or infinite"),
        (lambda t: t.update({"text_pool.bias": np.zeros(16, np.int32)}), "is stored as I32"),
        (lambda t: t.update({"text_pool.weight": np.zeros((16, 12), np.int8)}), "is stored as I8"),
    ]:
        copy = dict(tensors)
        change(copy)
        with pytest.raises(ModelError, match=reason):
            weights.load(write(tmp_path / "m.safetensors", copy))
    (tmp_path / "m.safetensors").write_bytes(b"no weights")
    with pytest.raises(ModelError, match="not a complete safetensors file"):
        weights.load(tmp_path / "m.safetensors")


def test_tensors_are_those_of_the_rust_program():
    """The list of tensors matches those of the shipped and recorded files."""
    for path in [*ASSETS.glob("*.safetensors"), *FIXTURES.glob("*_flow/model.safetensors")]:
        file = TensorFile(path)
        assert dict(weights.stored(Config.from_json(file.config_text))).keys() == set(file.names())


PROMOE = {"num_experts": 4, "router": "prototypes", "moe_intermediate_size": 8, "shared_expert_intermediate_size": 8}
TEXT = {"vocab_size": 9, "max_length": 4, "hidden_size": 4, "depth": 1, "num_heads": 1, "tokenizer": {}}
DSMOE = {"num_experts": 4, "router": "sigmoid", "moe_intermediate_size": 8, "n_group": 2, "topk_group": 2}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"kind": "moe"}, 'kind is "moe"'),
        ({"t_kind": "edm"}, 't_kind is "edm"'),
        ({"params": {"input_size": 9}}, "input_size 9 must be a multiple"),
        ({"params": {"depth": 0}}, "every size must be at least 1"),
        ({"params": {"MoE_config": {"num_experts": 65}}}, "65 experts; 1 to 64"),
        ({"params": {"MoE_config": {"num_experts": 4, "capacity": 0}}}, "capacity must be above 0"),
        ({"kind": "tc", "params": {"MoE_config": {"num_experts": 4, "capacity": 5}}}, "capacity must be at most 4"),
        ({"params": {"MoE_config": {"num_experts": 4, "router": "sigmoid"}}}, 'requires kind "tc"'),
        ({"kind": "tc", "params": {"MoE_config": {"num_experts": 4, "router": "sigmoid"}}}, "requires moe_intermediate_size"),
        ({"kind": "tc", "params": {"MoE_config": DSMOE | {"topk_group": 1}}}, "topk_group below n_group"),
        ({"kind": "tc", "params": {"MoE_config": DSMOE | {"skip_first2": True}}}, "skip_first2"),
        ({"kind": "tc", "params": {"MoE_config": DSMOE | {"routed_scaling_factor": 0}}}, "routed_scaling_factor"),
        ({"kind": "tc", "params": {"MoE_config": DSMOE | {"router": "dice"}}}, 'router is "dice"'),
        ({"params": {"MoE_config": PROMOE}}, 'requires kind "tc" or "ec"'),
        ({"kind": "ec", "params": {"MoE_config": PROMOE | {"capacity": 3.5}}}, "capacity must be at most 3"),
        ({"kind": "tc", "params": {"MoE_config": PROMOE | {"capacity": 2}}}, "requires capacity 1"),
        ({"kind": "tc", "params": {"MoE_config": PROMOE | {"num_experts": 1}}}, "at least two experts"),
        ({"kind": "tc", "params": {"MoE_config": PROMOE | {"moe_intermediate_size": 0}}}, "requires moe_intermediate_size"),
        ({"kind": "tc", "params": {"MoE_config": PROMOE | {"shared_expert_intermediate_size": 0}}}, "use_shared_expert false"),
        ({"params": {"rope_type": "1d"}}, "rope_type is '1d'"),
        ({"params": {"use_sinks": True}}, "attention sinks"),
        ({"params": {"norm_type": "groupnorm"}}, "norm_type is 'groupnorm'"),
        ({"params": {"context_tokens": -1}}, "context_tokens must be a whole number of at least 0, got -1"),
        ({"params": {"context_tokens": 2.5}}, "context_tokens must be a whole number"),
        ({"params": {"context_tokens": 2}}, 'context_tokens requires kind "dense", or "tc"'),
        ({"kind": "tc", "params": {"context_tokens": 2, "MoE_config": PROMOE}}, "softmax or sigmoid router"),
        ({"kind": "dense", "params": {"context_tokens": 2, "context_start": 2}}, "context_start 2 must be below depth 2"),
        ({"kind": "dense", "text": TEXT, "params": {"context_tokens": 2}}, "a label table and no prompts"),
        ({"t_kind": "ddpm", "params": {"prediction": "data"}}, "DDPM models predict the noise"),
        ({"params": {"detail_head": {"channels": 4}}}, "detail_head requires"),
        ({"params": {"detail_head": {"channels": 0}}}, "at least 1, got 0"),
        ({"params": {"hidden_size": "many"}}, "wrong type"),
        ({"time_scale": -1}, "time_scale must be above 0, got -1"),
    ],
)
def test_invalid_configurations_are_refused(change, reason):
    params = {"input_size": 8, "num_classes": 3, "patch_size": 2, "depth": 2, "hidden_size": 16, "num_heads": 2}
    params["MoE_config"] = {"num_experts": 4}
    document = {"kind": "diffmoe", "t_kind": "flow", "params": params | change.pop("params", {})} | change
    with pytest.raises(ModelError) as caught:
        Config.from_dict(document)
    assert reason in str(caught.value)
    with pytest.raises(ModelError, match="has no key 'params'"):
        Config.from_dict({"kind": "dense"})


@pytest.mark.parametrize("dtype", [np.int8, np.uint8])
def test_scales_have_other_names_in_the_layout_of_diffusers(dtype, tmp_path):
    numbers = np.arange(6 * 32).reshape(6, 32).astype(dtype)
    scale = np.linspace(1, 2, 6, dtype=np.float32)
    if dtype == np.uint8:
        scale = np.linspace(1, 2, 12, dtype=np.float16).reshape(6, 2)
    files = []
    for name in ("w.scale", "w_scale"):
        path = tmp_path / f"{name}.safetensors"
        # A tensor of floats whose name ends alike is none.
        save_file({"w": numbers, name: scale, "v": scale, "v_scale": scale}, path, metadata={"diffmoe": "{}"})
        files.append(TensorFile(path))
    first, second = files
    assert sorted(first.names()) == sorted(second.names()) == ["v", "v_scale", "w"]
    assert np.array_equal(first.read("w"), second.read("w"))
    save_file({"w": numbers, "w.scale": scale, "w_scale": scale}, path, metadata={"diffmoe": "{}"})
    with pytest.raises(ModelError, match="w.scale under two names"):
        TensorFile(path)


def test_names_of_dit_moe_are_read(tmp_path):
    case = FIXTURES / "dit_moe"
    tensors = load_file(case / "model.safetensors")
    names = [name for name in tensors if ".moe." in name]
    official = {name.replace(".moe.", ".mlp."): values for name, values in tensors.items()}
    assert names, "the recorded model has the names of DiT-MoE"
    for name, values in weights.load(case / "model.safetensors")[1].items():
        assert np.array_equal(values, official[name]), name
    (tmp_path / "case.json").write_text((case / "case.json").read_text())
    both = {**tensors, names[0].replace(".moe.", ".mlp."): tensors[names[0]]}
    save_file(both, tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match="under two names"):
        weights.load(tmp_path / "model.safetensors")


def test_names_of_dsmoe_are_read():
    case = FIXTURES / "dsmoe" / "model.safetensors"
    stored, read = load_file(case), weights.load(case)[1]
    theirs = "blocks.1.mlp.experts.blocks.5.up_proj.weight"
    assert np.array_equal(read[theirs.replace("experts.blocks", "experts")], stored[theirs])
    assert len(read) == len(stored)


def test_names_of_promoe_are_read():
    case = FIXTURES / "promoe" / "model.safetensors"
    stored, read = load_file(case), weights.load(case)[1]
    for theirs, ours in (
        ("blocks.1.mlp.experts.3.up_proj.bias", "blocks.1.mlp.experts.3.fc1.bias"),
        ("blocks.1.mlp.shared_expert.down_proj.weight", "blocks.1.mlp.shared_experts.fc2.weight"),
    ):
        assert np.array_equal(read[ours], stored[theirs])
    assert len(read) == len(stored)


def test_the_published_form_of_jit_must_be_converted():
    with pytest.raises(ModelError, match="JiT model in the form of its code; make a model file with `diffmoe convert` first"):
        Pipeline.from_pretrained(FIXTURES / "jit_moe" / "published.safetensors")


def test_positions_may_be_added_and_turned():
    """The table is there unless positions turn queries and keys; ``pos_embed`` says otherwise."""
    params = {"input_size": 8, "num_classes": 3, "patch_size": 2, "depth": 1, "hidden_size": 16, "num_heads": 2}
    for more, there in (({}, True), ({"rope_type": "2d"}, False), ({"rope_type": "2d", "pos_embed": True}, True)):
        config = Config.from_dict({"kind": "dense", "t_kind": "flow", "params": params | more})
        assert ("pos_embed" in dict(weights.tensors(config))) == there


def test_a_folder_of_diffusers_is_opened(tmp_path):
    transformer = tmp_path / "transformer"
    transformer.mkdir()
    tensors = load_file(SOURCE / "model.safetensors")
    # diffusers drops header entries that it does not know.
    write(transformer / "diffusion_pytorch_model.safetensors", tensors, metadata=False)
    config = {"_class_name": "DiffMoETransformer2DModel", **json.loads(config_text())}
    (transformer / "config.json").write_text(json.dumps(config))
    for folder in (tmp_path, transformer):
        assert Pipeline.from_pretrained(folder).config == Pipeline.from_pretrained(SOURCE).config
