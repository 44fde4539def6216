"""A list of runs, finished however often it is killed."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from diffmoe.train import campaign
from diffmoe.train.exported import load_exported

HERE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

TWO_RUNS = """
[[run]]
name = "first"
config = "run.toml"
images = 640
set = ["model.prediction=data", "train.judge_minutes=1000", "train.keep_best=true", "train.save_minutes=0",
       "train.sample_minutes=1000"]
[[run]]
name = "second"
config = "run.toml"
images = 1280
init = "run:first"
dtype = "int8"
set = ["model.prediction=data", "model.detail_head=4", "train.judge_minutes=1000", "train.save_minutes=0",
       "train.sample_minutes=1000", "train.warmup=1"]
"""


@pytest.fixture
def listed(emoji_root):
    (emoji_root / "campaign.toml").write_text(TWO_RUNS)
    return emoji_root


def start(root, out):
    return subprocess.Popen([sys.executable, "-m", "diffmoe.train.campaign", str(root / "campaign.toml"), "--data-root", str(root),
                             "--out", str(root / out)], cwd=HERE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def kill_when(process, condition, within=300):
    end = time.time() + within
    while not condition():
        assert process.poll() is None, process.stderr.read()
        assert time.time() < end, "what was waited for did not happen"
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()


def steps_taken(path):
    return len(path.read_text().splitlines()) - 1 if path.exists() else 0


def test_a_campaign_that_is_killed_ends_as_one_that_is_not(listed):
    whole = start(listed, "whole")
    assert whole.wait() == 0, whole.stderr.read()

    first, second = listed / "killed/first", listed / "killed/second"
    kill_when(start(listed, "killed"), lambda: steps_taken(first / "log.csv") >= 1)  # amid training
    assert not (first / "first.safetensors").exists()
    kill_when(start(listed, "killed"), lambda: (first / "first.safetensors").exists())  # before its stage was noted, or just after
    kill_when(start(listed, "killed"), lambda: (second / "last.pt").exists())
    last = start(listed, "killed")
    assert last.wait() == 0, last.stderr.read()

    for name in ("first", "second"):
        a, b = (load_exported(str(listed / out / name / f"{name}.safetensors")) for out in ("whole", "killed"))
        for (k, v), w in zip(a[0].state_dict().items(), b[0].state_dict().values()):
            assert torch.equal(v, w), (name, k)
        assert a[1]["card"]["train_images"] == b[1]["card"]["train_images"] == {"first": 640, "second": 1920}[name]
    state = json.loads((listed / "killed/state.json").read_text())
    assert all(set(state[n]) == set(campaign.STAGES) for n in ("first", "second"))
    assert state["first"]["export"]["from"] == "best.pt" and state["second"]["export"]["from"] == "last.pt"
    m = state["second"]["measure"]
    assert m["after"]["figure"] < m["before"]["figure"], "the second run learned more"
    report = (listed / "killed/report.md").read_text()
    assert "| second |" in report and f"{m['after']['figure']:.6f}" in report and "| held-out, before |" in report

    # Run again, it has nothing to do; a second one at the same time is refused.
    before = os.path.getmtime(second / "second.safetensors")
    campaign.main([str(listed / "campaign.toml"), "--data-root", str(listed), "--out", str(listed / "killed")])
    assert os.path.getmtime(second / "second.safetensors") == before
    lock = campaign.only_one(str(listed / "killed"))
    with pytest.raises(SystemExit, match="another campaign"):
        campaign.only_one(str(listed / "killed"))
    lock.close()


@pytest.mark.parametrize("text,error", [
    ("", "no \\[\\[run\\]\\]"),
    ('[[run]]\nname = "a"\nconfig = "run.toml"\n', "budget"),
    ('[[run]]\nname = "a"\nconfig = "run.toml"\nhours = 1\ninit = "run:b"\n', "not an earlier run"),
    ('[[run]]\nname = "a"\nconfig = "run.toml"\nhours = 1\n' * 2, "two runs"),
    ('[[run]]\nname = "a"\nconfig = "run.toml"\nhuors = 1\n', "huors"),
])
def test_wrong_lists_are_refused_before_anything_is_trained(tmp_path, text, error):
    (tmp_path / "c.toml").write_text(text)
    with pytest.raises(ValueError, match=error):
        campaign.read(tmp_path / "c.toml")


def test_the_shipped_list_is_well_formed():
    runs = campaign.read(os.path.join(HERE, "configs/campaign.toml"))
    for r in runs:
        assert os.path.exists(r["config"])
        c = campaign.Campaign(runs, "nowhere", "nowhere").config(r)
        assert c.name == r["name"] and c.train.judge_minutes > 0


def test_the_best_average_is_kept(emoji_root, monkeypatch):
    from diffmoe.train import heldout
    from helpers import run_tiny

    errors = iter([0.3, 0.1, 0.2])
    monkeypatch.setattr(heldout.HeldOut, "measure", lambda self, m, d="cpu": dict.fromkeys(("held_out", "seen"), [next(errors)] * 7))
    more = [x for s in ("model.prediction=data", "train.judge_minutes=100", "train.keep_best=true") for x in ("--set", s)]
    for steps in (5, 10, 15):
        run_tiny(emoji_root, *more, "--set", f"train.steps={steps}", *(["--resume"] if steps > 5 else []))
    note = json.loads((emoji_root / "runs/tiny/best.json").read_text())
    assert (note["figure"], note["step"]) == (pytest.approx(0.1), 10)
    assert torch.load(emoji_root / "runs/tiny/best.pt", weights_only=False)["step"] == 10
