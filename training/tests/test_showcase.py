"""The choice of pairs for default images, and its way into a file."""

import json

import torch
from safetensors import safe_open

from diffmoe.train.data import Dataset, Labels
from diffmoe.train.evaluate import __main__ as command
from diffmoe.train.evaluate import emoji, showcase
from diffmoe.train.exported import read_description
from test_evaluate import weights  # noqa: F401 - a fixture


def test_candidates_are_some_images_of_every_subject():
    subjects = torch.tensor([0] * 5 + [1] * 3 + [2])
    labels = [Labels("subject", "s", [*"abc"]), Labels("style", "t", [*"uvwxy"])]
    data = Dataset(torch.zeros(9, 3, 2, 2), [subjects, torch.arange(9) % 5], labels, "none")
    rows = showcase.candidates(data, 2, seed=1)
    assert torch.bincount(subjects[rows]).tolist() == [2, 2, 1]
    assert rows.tolist() == sorted(set(rows.tolist()))


def test_the_best_pair_of_each_subject_is_kept_if_all_its_images_are_right():
    subjects = torch.tensor([0, 0, 1, 1, 2])
    levels = torch.tensor([[9.0, 5, 20, 8, 4], [11.0, 10, 10, 41, 5]])
    own = torch.tensor([[True, True, True, True, True], [True, True, True, True, False]])
    # Of subject 0 the second is better; of 1 the first is within the limit; of 2 one image is nearest to another drawing.
    assert showcase.choose(levels, own, [subjects], most=9, limit=40) == [1, 2]
    assert showcase.choose(levels, own, [subjects], most=1, limit=40) == [1]
    assert showcase.choose(levels, own, [subjects], most=9, limit=15) == [1]


def test_a_file_gets_its_showcase_and_keeps_everything_else(weights, monkeypatch):  # noqa: F811
    root, path = weights
    monkeypatch.setattr(emoji, "load", lambda meta, r, real=emoji.load: real(meta, r, "e/emoji.npz", "e/labels.json"))
    with safe_open(path, "pt") as f:
        before = {k: f.get_tensor(k) for k in f.keys()}
        meta = json.loads(f.metadata()["diffmoe"])
    command.main(["showcase", "--weights", str(path), "--data-root", str(root), "--seeds", "1", "--levels", "255", "--write"])
    first = read_description(path)["defaults"]["showcase"]["rows"]
    again = ["showcase", "--weights", str(path), "--data-root", str(root), "--seeds", "1", "--levels", "255"]
    command.main([*again, "--again", "--bf16", "--write"])
    assert {tuple(row) for row in read_description(path)["defaults"]["showcase"]["rows"]} <= {tuple(row) for row in first}
    with safe_open(path, "pt") as f:
        assert {k: v.tolist() for k, v in before.items()} == {k: f.get_tensor(k).tolist() for k in f.keys()}
        after = json.loads(f.metadata()["diffmoe"])
    found = after["defaults"].pop("showcase")
    assert after == meta
    assert "1 seeds" in found["judge"] and all(len(row) == 2 for row in found["rows"])
