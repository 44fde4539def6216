"""Compares the PyTorch reader with `torch.load(weights_only=True)` on generated files.

The files are what programs save (types, views, nested dictionaries, formats) and damaged ones. For each of them, both
readers find the same tensors with the same bits, or both refuse it, or the refusal is one of `STRICTER` and `WIDER`.

    cargo xtask fuzz pytorch --count 10000 --seed 1

Needs PyTorch and NumPy. The same seed makes the same files.
"""

import argparse
import collections
import io
import json
import random
import re
import resource
import subprocess
import sys
import tempfile
import warnings
import zipfile
from pathlib import Path

import torch

# Whole files that only PyTorch loads: our message, and why.
STRICTER = [
    (r"not a PyTorch archive", "format from before PyTorch 1.6"),
    (r"pickle of protocol \d", "pickle protocol other than 2"),
    (r"opcode 0x\w\w is not one that torch.save writes", "pickle protocol other than 2"),
    (r"values are big-endian", "big-endian values"),
    (r"is not a plain tensor but made by", "complex, quantised, sparse and 8-bit floating-point tensors"),
    (r"contains (NaN|-?inf)", "values that are not finite in f32"),
    (r"contains no tensors|has no weights|not a dictionary of tensors", "no state_dict"),
    (r"compressed, which torch.save never does", "compressed entries"),
    (r"twice, and programs disagree", "two entries with one name"),
    (r"contains two checkpoints", "two folders in the archive"),
]

# Files that only this reader accepts: PyTorch's message, and why. What is wrong lies beside the weights.
WIDER = [
    (r"Unsupported (global|class)|not an allowed global|was not an allowed", "objects beside the weights, which are not made"),
    (r"locating file data/\w+: file not found", "no data of a tensor beside the weights"),
    (r"record size .* does not match", "wrong data of a tensor beside the weights"),
    (r"is not in a subdirectory", "files outside of the archive's folder"),
    (r"reading zip archive", "damage of the archive beside the weights"),
    (r"UnicodeDecodeError", "an identifier of the file that is no text"),
    (r"found negative index", "a negative size of a tensor beside the weights"),
    (r"missing 1 required positional argument", "a tensor with one argument fewer than torch.save writes"),
    (r'hasRecord\("version"\)', "no version"),
]

FLOATS = [torch.float32, torch.float16, torch.bfloat16, torch.float64]
WHOLE = [torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool]
RARE = [torch.complex64, torch.float8_e4m3fn, torch.uint16, torch.quint8]
NAMES = ["x_embedder.proj", "blocks.0.attn.qkv", "blocks.0.mlp.gate", "final_layer.linear", "pos_embed", "näme 🤖"]


def number_values(rng, dtype, shape):
    """Random values, including edge cases of number conversion."""
    count = 1
    for size in shape:
        count *= size
    if dtype == torch.bool:
        return torch.tensor([rng.random() < 0.5 for _ in range(count)], dtype=dtype).reshape(shape)
    if dtype in WHOLE:
        limits = torch.iinfo(dtype)
        some = [limits.min, limits.max, 0, 1, limits.max // 3]
        values = [rng.choice(some) if rng.random() < 0.2 else rng.randint(limits.min, limits.max) for _ in range(count)]
        return torch.tensor(values, dtype=dtype).reshape(shape)
    some = [0.0, -0.0, 1e-40, -1e-45, 65504.0, 6e-8, 1 / 3, 2.0**-126]
    values = [rng.choice(some) if rng.random() < 0.2 else rng.gauss(0, 1) for _ in range(count)]
    if rng.random() < 0.02 and values:
        values[rng.randrange(count)] = rng.choice([float("nan"), float("inf"), 1e300])
    return torch.tensor(values, dtype=torch.float64).reshape(shape).to(dtype)


def shape_of(rng):
    return [rng.choice([0, 1, 1, 2, 3, 4, 5]) for _ in range(rng.choice([0, 1, 1, 2, 2, 2, 3, 4]))]


def view(rng, tensor):
    """A view of a tensor, of a kind that programs save."""
    kind = rng.randrange(9)
    if kind == 0 and tensor.dim() >= 2:
        return tensor.transpose(0, tensor.dim() - 1)
    if kind == 1 and tensor.dim() >= 1:
        return tensor[rng.randrange(2) :: rng.choice([1, 2, 3])]
    if kind == 2 and tensor.dim() >= 1 and tensor.shape[0] > 0:
        return tensor[rng.randrange(tensor.shape[0])]
    if kind == 3:
        return tensor.unsqueeze(0).expand(rng.choice([1, 2, 3]), *tensor.shape)
    if kind == 4 and tensor.dim() >= 1:
        return tensor.flip(0) if rng.random() < 0.3 else tensor.narrow(0, 0, tensor.shape[0] // 2)
    if kind == 5 and tensor.dim() == 2:
        return tensor.diagonal()
    stored = tensor.untyped_storage().nbytes() // tensor.element_size() - tensor.storage_offset()
    if kind == 6 and stored >= 4:
        return tensor.as_strided([2, 2], [1, rng.choice([0, 1, 2])], tensor.storage_offset())
    if kind == 7 and tensor.is_floating_point():
        return torch._neg_view(tensor)
    return tensor


def tensors(rng):
    """A state_dict."""
    found = collections.OrderedDict() if rng.random() < 0.6 else {}
    base = None
    for index in range(rng.randrange(1, 6)):
        dtype = rng.choice(FLOATS * 3 + WHOLE)
        if base is None or rng.random() < 0.7:
            base = number_values(rng, dtype, shape_of(rng))
        tensor = base
        for _ in range(rng.choice([0, 0, 1, 1, 2])):
            tensor = view(rng, tensor)
        if tensor.is_floating_point() and rng.random() < 0.2 and tensor.dtype != torch.float8_e4m3fn:
            tensor = torch.nn.Parameter(tensor.detach(), requires_grad=rng.random() < 0.5)
        found[f"{rng.choice(NAMES)}.{index}.{rng.choice(['weight', 'bias'])}"] = tensor
    if rng.random() < 0.05:
        dtype = rng.choice(RARE)
        values = torch.randn(3)
        found["rare"] = (
            torch.quantize_per_tensor(values, 0.1, 3, torch.quint8)
            if dtype == torch.quint8
            else values.to(torch.float32).abs().to(dtype)
        )
    if rng.random() < 0.03:
        found["sparse"] = torch.eye(3).to_sparse()
    if isinstance(found, collections.OrderedDict) and rng.random() < 0.5:
        found._metadata = collections.OrderedDict({"": {"version": 1}, "blocks.0": {"version": 2}})
        if rng.random() < 0.2:
            found.attribute = torch.ones(2)
    return found


def settings(rng):
    """What trainers save beside the weights."""
    some = [
        1,
        -5,
        2**70,
        0.5,
        "text",
        None,
        True,
        [1, 2, [3]],
        (1, "a"),
        {"lr": 1e-4, "betas": (0.9, 0.999)},
        torch.Size([2, 3]),
        torch.device("cpu"),
        torch.float16,
        b"bytes",
        {1, 2},
        argparse.Namespace(depth=2, name="x"),
        collections.defaultdict(list),
        [torch.ones(2), torch.zeros(1)],
        {0: {"step": torch.tensor(3.0), "exp_avg": torch.randn(2)}},
    ]
    return rng.choice(some)


def document(rng):
    """A whole checkpoint."""
    kind = rng.randrange(8)
    if kind < 3:
        return tensors(rng)
    if kind == 3:
        found = {"model": tensors(rng), "ema": tensors(rng), "opt": settings(rng), "args": settings(rng)}
    elif kind == 4:
        found = {"state_dict": tensors(rng), "epoch": 3, "callbacks": settings(rng)}
    elif kind == 5:
        found = {"ema": {"decay": 0.999, "shadow": tensors(rng)}, "extra": settings(rng)}
    elif kind == 6:
        found = {"step": settings(rng), **tensors(rng)}
    else:
        found = collections.OrderedDict((f"module.{name}", value) for name, value in tensors(rng).items())
    return found


def saved(rng, value):
    """The file, and whether it is one that `torch.save` writes."""
    protocol = 2 if rng.random() < 0.8 else rng.choice([2, 3, 4, 5])
    file = io.BytesIO()
    torch.save(value, file, pickle_protocol=protocol, _use_new_zipfile_serialization=rng.random() < 0.93)
    return file.getvalue()


def rewrapped(rng, content):
    """The archive with other entries; None where there is no archive."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            entries = [(info.filename, archive.read(info)) for info in archive.infolist()]
    except zipfile.BadZipFile:
        return None
    pickled = next((i for i, (name, _) in enumerate(entries) if name.endswith("/data.pkl")), None)
    storages = [i for i, (name, _) in enumerate(entries) if "/data/" in name]
    compression, kind = zipfile.ZIP_STORED, rng.randrange(9)
    root = entries[0][0].split("/")[0]
    if kind < 4 and pickled is not None:
        entries[pickled] = (entries[pickled][0], changed(rng, entries[pickled][1]))
    elif kind == 4 and storages:
        at = rng.choice(storages)
        name, data = entries[at]
        cut = rng.randrange(len(data) + 1)
        entries[at] = (name, rng.choice([data[:cut], data + b"\0" * 8, data + data, b""]))
    elif kind == 5 and storages:
        del entries[rng.choice(storages)]
    elif kind == 6:
        entries = [(name, b"big" if name.endswith("/byteorder") else data) for name, data in entries]
    elif kind == 7:
        at = rng.randrange(len(entries))
        entries.insert(rng.randrange(len(entries) + 1), (entries[at][0], changed(rng, entries[at][1])))
    else:
        compression = rng.choice([zipfile.ZIP_DEFLATED, zipfile.ZIP_STORED])
        entries.insert(rng.randrange(len(entries) + 1), (rng.choice(["other/data.pkl", f"{root}/x", "x"]), b"\x80\x02N."))
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, data in entries:
            archive.writestr(name, data)
    return file.getvalue()


def changed(rng, content):
    """A copy damaged at random: bytes changed, removed or repeated."""
    content = bytearray(content)
    for _ in range(rng.choice([1, 1, 1, 2, 4])):
        if not content:
            break
        at = rng.randrange(len(content))
        kind = rng.randrange(6)
        if kind == 0:
            content[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            content[at] = rng.randrange(256)
        elif kind == 2:
            del content[at : at + rng.choice([1, 2, 8, 64])]
        elif kind == 3:
            content[at:at] = content[at : at + rng.choice([1, 2, 8, 64])]
        elif kind == 4:
            content[at] = rng.choice(b"0N.(t}])eubRQaq\x85\x86\x87\x88\x89KMJ\x8a")
        elif rng.random() < 0.2:
            del content[at:]
    return bytes(content)


def weights(value):
    """The dictionary with the weights, by the rules of `TorchFile`."""

    def has_tensors(entries):
        return any(isinstance(key, str) and torch.is_tensor(item) for key, item in entries.items())

    def descend(entries):
        level, found = [entries], []
        for _ in range(4):
            below = []
            for entries in level:
                if has_tensors(entries):
                    found.append(entries)
                else:
                    below += [v for k, v in entries.items() if isinstance(k, str) and isinstance(v, dict) and v]
            level = below
        return found[0] if len(found) == 1 else None

    if not isinstance(value, dict):
        return None
    if isinstance(value.get("ema"), dict):
        return descend(value["ema"])
    if has_tensors(value):
        return value
    return descend(value["state_dict"]) if isinstance(value.get("state_dict"), dict) else None


def by_pytorch(content):
    """Tensors by name as (shape, bytes of f32), or the message of a refusal."""
    try:
        with torch.serialization.safe_globals([argparse.Namespace, torch.Size]):
            value = torch.load(io.BytesIO(content), weights_only=True, map_location="cpu")
    except Exception as error:  # noqa: BLE001: it raises errors of every class.
        inner = re.search(r"WeightsUnpickler error: .*", str(error))
        return None, f"{type(error).__name__}: {inner.group() if inner else error}"
    found = weights(value)
    if found is None:
        return None, "no state_dict"
    result = {}
    for name, tensor in found.items():
        if not isinstance(name, str) or not torch.is_tensor(tensor):
            continue
        while name.startswith("module."):
            name = name[len("module.") :]
        try:
            values = tensor.detach().resolve_conj().resolve_neg().to(torch.float32).contiguous()
            result[name] = (list(values.shape), values.numpy().tobytes().hex())
        except Exception:  # noqa: BLE001: complex, sparse, quantised.
            result[name] = None
    return result, None


def by_this(reader, paths):
    run = subprocess.run([reader, "--tensors", *map(str, paths)], capture_output=True, check=False)
    lines = run.stdout.decode().splitlines()
    if run.returncode != 0 or len(lines) != len(paths):
        sys.exit(f"the reader failed at {paths[len(lines)]}:\n{run.stderr.decode()}")
    return [json.loads(line) for line in lines]


def compare(ours, theirs, refusal, whole):
    """What came of a file, and whether that is a fault."""
    error = ours.get("error")
    if error is not None and theirs is None:
        return "both refuse", False
    if error is not None:
        for pattern, reason in STRICTER:
            if re.search(pattern, error):
                return f"only PyTorch loads it: {reason}", False
        return ("only PyTorch loads it: " + error, True) if whole else ("only PyTorch loads it: damaged", False)
    if theirs is None:
        for pattern, reason in WIDER:
            if re.search(pattern, refusal):
                return f"only this reader accepts it: {reason}", False
        return f"only this reader accepts it: {refusal.splitlines()[0]}", True
    found = {name: (tensor["shape"], tensor["values"]) for name, tensor in ours["tensors"].items()}
    if found == theirs:
        return "the same tensors", False
    names = sorted(name for name in found.keys() | theirs.keys() if found.get(name) != theirs.get(name))
    return f"different: {names[0]}: {found.get(names[0])}, PyTorch {theirs.get(names[0])}", True


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--reader", required=True, help="the program diffmoe-fuzz")
    parser.add_argument("--count", type=int, default=2000, help="files to make (default 2000)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--faults", type=Path, help="folder for files that are read differently")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    # A damaged file may ask PyTorch for any amount of memory.
    resource.setrlimit(resource.RLIMIT_DATA, (8 << 30, 8 << 30))
    outcomes, faults = collections.Counter(), collections.Counter()
    with tempfile.TemporaryDirectory() as folder:
        for start in range(0, options.count, 100):
            batch = []
            for number in range(start, min(start + 100, options.count)):
                rng = random.Random(f"{options.seed} {number}")
                torch.manual_seed(number)
                content, whole = saved(rng, document(rng)), rng.random() < 0.5
                if not whole:
                    other = rewrapped(rng, content) if rng.random() < 0.7 else changed(rng, content)
                    content = other or content
                path = Path(folder) / f"{number}.pt"
                path.write_bytes(content)
                batch.append((path, content, whole))
            answers = by_this(options.reader, [path for path, _, _ in batch])
            for (path, content, whole), ours in zip(batch, answers, strict=True):
                theirs, refusal = by_pytorch(content)
                outcome, is_fault = compare(ours, theirs, refusal, whole)
                if is_fault:
                    faults[outcome] += 1
                    if options.faults:
                        options.faults.mkdir(parents=True, exist_ok=True)
                        (options.faults / f"{options.seed}-{path.name}").write_bytes(content)
                    if faults[outcome] == 1:
                        print(f"FAULT, file {path.name} of seed {options.seed}: {outcome}")
                else:
                    outcomes[outcome] += 1
                path.unlink()
    for outcome, count in outcomes.most_common():
        print(f"{count:8} {outcome}")
    print(f"{options.count} files, {sum(faults.values())} faults")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
