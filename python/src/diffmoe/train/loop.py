"""Train one model:  python -m diffmoe.train configs/eurosat.toml [--resume]

Several GPUs:  torchrun --nproc_per_node=4 -m diffmoe.train configs/...
"""

import argparse
import json
import os
import time

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from ..config import Config
from . import config as configs
from . import data, describe, flow, handover, heldout, objective, prompts, schedule, start
from .ema import Ema
from .exported import load_exported
from .model import DiT
from .runlog import RunLog
from .sample import save_grid


def build(run, labels, text=None):
    """The model of a run with these label tables; ``text``: the section of its description on text."""
    config = Config.from_dict(describe.document(run, labels, text=text))
    return DiT(config, [l.mix for l in labels], run.model.label_init_std)


def save_atomic(obj, path):
    torch.save(obj, path + ".tmp")
    os.replace(path + ".tmp", path)


def tokenizer_of(state):
    """The ``tokenizer.json`` in a checkpoint, or None."""
    return json.loads(state["tokenizer"]) if state.get("tokenizer") else None


def set_up_device(t):
    """Returns (device, rank, world size)."""
    rank = int(os.environ.get("RANK", 0))
    world = int(os.environ.get("WORLD_SIZE", 1))
    device = t.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda":
        device = f"cuda:{os.environ.get('LOCAL_RANK', 0)}"
        torch.cuda.set_device(device)
        torch.backends.cuda.matmul.allow_tf32 = True
    elif t.threads:
        torch.set_num_threads(t.threads)
    if world > 1:
        dist.init_process_group("nccl" if device.startswith("cuda") else "gloo")
    return device, rank, world


class Trainer:
    def __init__(self, c, data_root, folder, resume):
        t = c.train
        self.c, self.folder, self.data_root = c, folder, data_root
        self.device, self.rank, self.world = set_up_device(t)
        os.makedirs(folder, exist_ok=True)
        self.last = os.path.join(folder, "last.pt")
        state, self.earlier = None, {}
        if resume and os.path.exists(self.last):
            state = torch.load(self.last, map_location=self.device, weights_only=False)
        self.dataset = data.load_for(c, data_root, tokenizer=self.known_tokenizer(state))
        self.reader = self.dataset.prompter and self.dataset.prompter.reader
        torch.manual_seed(t.seed)
        self.model = build(c, self.dataset.tables, prompts.section(c, self.reader)).to(self.device).train()
        self.autocast = torch.autocast(self.device.split(":")[0], torch.bfloat16, enabled=t.amp == "bf16")
        if t.init and state is None:
            self.earlier = start.initialise(self.model, self.dataset, t.init, t.teach_steps, self.autocast)
        self.freeze(t.only)
        if t.paper_thresholds:
            for m in self.model.dynamic_layers().values():
                m.threshold_ready.fill_(1)
        self.objective = objective.make(self.c)
        self.handover = handover.of_run(c, self.dataset.tables, self.device)
        self.ema = Ema(self.model, t.ema, t.ema_warmup, t.paper_thresholds)
        self.ema_long = Ema(self.model, t.ema_long, t.ema_warmup, t.paper_thresholds) if t.ema_long else None
        groups, self.scales = self.groups()
        self.opt = torch.optim.AdamW([{"params": group} for group in groups], lr=t.lr, betas=tuple(t.betas),
                                     weight_decay=t.weight_decay, fused=True)
        self.step, self.images, self.before = 0, 0, 0.0  # before: seconds of earlier sessions
        same_end = state and state["config"]["train"].get("deadline") == t.deadline
        self.decay = schedule.Decay(t, folder, state["decay_began"] if same_end else None)
        if state:
            self.take(state)
        seed = t.seed + 1000 * self.rank + self.step
        self.lessons = start.teacher(*load_exported(t.init), self.dataset, seed=seed) if t.teach_every else None
        torch.manual_seed(seed)
        self.batches = data.Batches(self.dataset, t.batch, seed)
        if state and "random" in state and self.rank == 0:  # continue the same random stream
            torch.set_rng_state(state["random"].cpu())
            self.batches.restore({k: v.cpu() for k, v in state["batches"].items()})
            if self.lessons and state.get("lessons") is not None:
                self.lessons.generator.set_state(state["lessons"].cpu())
        self.run = DistributedDataParallel(self.model, broadcast_buffers=False) if self.world > 1 else self.model
        if t.compile:
            self.run = torch.compile(self.run)
        self.log = RunLog(folder, self.step) if self.rank == 0 else None
        self.best = self.known_best(state is not None)
        self.held_out = self.judge_sets() if t.judge_minutes and self.rank == 0 else None
        self.start = time.time()

    def freeze(self, only):
        """Freeze all parameters except those whose names start with one of ``only`` (empty: train all)."""
        for name, w in self.model.named_parameters():
            w.requires_grad_(w.requires_grad and (not only or name.startswith(tuple(only))))
        if not any(w.requires_grad for w in self.model.parameters()):
            raise ValueError(f"train.only = {only}: no parameter of the model has such a name")
        if only:  # the weights that thresholds depend on do not change
            for m in self.model.dynamic_layers().values():
                m.track_thresholds = False

    def groups(self):
        """Parameters to train, in groups, and the learning rate of each group relative to train.lr."""
        text, rest = [], []
        for name, w in self.model.named_parameters():
            if w.requires_grad:
                (text if self.c.train.text_lr != 1 and name.startswith("text_") else rest).append(w)
        return zip(*((group, scale) for group, scale in ((rest, 1.0), (text, self.c.train.text_lr)) if group))

    def judge_sets(self):
        unseen = data.load_for(self.c, self.data_root, "test", self.reader and self.reader.document)
        return heldout.HeldOut({"held_out": unseen, "seen": self.dataset}, self.c.train.judge_images)

    def known_tokenizer(self, state):
        """The ``tokenizer.json`` of the weights, or one shared by all processes, because
        training it twice gives different ones."""
        known = None
        if state:
            known = tokenizer_of(state)
        elif self.c.train.init:
            known = start.tokenizer_of_file(self.c.train.init)
        if not known and self.world > 1 and self.c.text.hidden_size:
            known = [data.load_for(self.c, self.data_root).prompter.reader.document if self.rank == 0 else None]
            dist.broadcast_object_list(known)
            known = known[0]
        return known

    def take(self, s):
        self.model.load_state_dict(s["model"])
        self.ema.model.load_state_dict(s["ema"])
        if self.ema_long:  # if the checkpoint has none, start from the shorter one
            self.ema_long.model.load_state_dict(s.get("ema_long") or s["ema"])
            self.ema_long.n = s.get("ema_long_n", s["ema_n"])
        self.ema.n, self.step, self.images, self.before = s["ema_n"], s["step"], s["images"], s["seconds"]
        self.opt.load_state_dict(s["opt"])
        self.earlier = s.get("earlier", {})

    def seconds(self):
        return self.before + time.time() - self.start

    def state(self):
        labels = [(l.name, l.prefix, l.values, l.mix, l.groups) for l in self.dataset.tables]
        return {
            "config": configs.to_dict(self.c), "model": self.model.state_dict(), "ema": self.ema.model.state_dict(),
            "ema_n": self.ema.n, "opt": self.opt.state_dict(), "step": self.step, "images": self.images,
            "seconds": self.seconds(), "labels": labels, "loss": self.log.recent,
            "tokenizer": self.reader and json.dumps(self.reader.document, ensure_ascii=False),
            "decay_began": self.decay.began, "earlier": self.earlier,
            "random": torch.get_rng_state(), "batches": self.batches.state(),
            "lessons": self.lessons and self.lessons.generator.get_state(),
            **({"ema_long": self.ema_long.model.state_dict(), "ema_long_n": self.ema_long.n} if self.ema_long else {}),
        }

    def checkpoint(self):
        save_atomic(self.state(), self.last)

    def left(self):
        """Remaining share of the learning rate; 0 ends the run."""
        left = min(schedule.planned(self.c.train, self.step, self.seconds()), self.decay.left(time.time()))
        if self.world > 1:  # all processes must stop at the same step
            q = torch.tensor(left, device=self.device)
            dist.all_reduce(q, dist.ReduceOp.MIN)
            left = q.item()
        return left

    def one_step(self, lr):
        t = self.c.train
        for g, scale in zip(self.opt.param_groups, self.scales):
            g["lr"] = lr * scale
        x, labels = self.batches.next(self.device)
        labels = flow.drop_labels(labels, self.dataset.nulls, t.drop_all, t.drop_single)
        tt = self.objective.draw_time(len(x), self.device)
        noise = torch.randn_like(x)
        for m in self.model.dynamic_layers().values() if t.capacity_schedule else ():
            m.capacity = schedule.capacity(t.capacity_schedule, self.step, m.num_experts, self.c.model.capacity)
        with self.autocast:
            hand = self.handover
            z = hand.noised(x, noise, tt, labels) if hand else self.objective.noised(x, noise, tt)
            out, bce = self.run(z, tt, labels)
            lesson = self.lessons.loss(self.model) if self.lessons and self.step % t.teach_every == 0 else 0
        losses = self.objective.loss(out, x, noise, tt)
        (losses.mean() + t.bce_weight * bce + lesson).backward()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), t.grad_clip)
        self.opt.step()
        self.opt.zero_grad(set_to_none=True)
        self.ema.update(self.model)
        if self.ema_long:
            self.ema_long.update(self.model)
        self.step += 1
        self.images += t.batch * self.world
        if self.log:
            layers = [m.predicted_capacity for m in self.model.dynamic_layers().values()]
            capacity = torch.stack(layers).mean().item() if layers else float("nan")
            self.log.add(losses, self.objective.share(tt), bce, norm, capacity)

    def grid(self, name):
        save_grid(self.ema.model, self.dataset, self.c.sample, os.path.join(self.folder, name))

    def judge(self):
        """Measure the error of every average on held-out and seen images."""
        for name, average in (("ema", self.ema), ("ema_long", self.ema_long)):
            if average:
                errors = self.held_out.measure(average.model, self.device)
                heldout.append(os.path.join(self.folder, "heldout.csv"), self.step, self.images, name, errors,
                               self.held_out.sizes())
                self.keep(average, name, heldout.figure(errors["held_out"]))

    def keep(self, average, name, figure):
        """best.pt has the best average as its "ema", best.json its error."""
        if self.c.train.keep_best and (self.best is None or figure < self.best):
            self.best = figure
            save_atomic({**self.state(), "ema": average.model.state_dict()}, os.path.join(self.folder, "best.pt"))
            note = {"figure": figure, "step": self.step, "images": self.images, "weights": name}
            with open(os.path.join(self.folder, "best.json.tmp"), "w") as f:
                json.dump(note, f)
            os.replace(os.path.join(self.folder, "best.json.tmp"), os.path.join(self.folder, "best.json"))

    def known_best(self, resumed):
        path = os.path.join(self.folder, "best.json")
        if not resumed or not os.path.exists(path):
            return None
        with open(path) as f:
            return json.load(f)["figure"]

    def train(self):
        t = self.c.train
        bar = tqdm(total=t.steps, initial=self.step, disable=self.rank > 0, mininterval=5)
        saved = sampled = judged = time.time()
        while (left := self.left()) > 0:
            lr = schedule.learning_rate(t, self.step, left)
            self.one_step(lr)
            bar.update(1)
            if self.rank > 0:
                continue
            if self.step % t.log_every == 0:
                loss, rate = self.log.write(self.step, self.images, self.seconds(), lr, t.batch * self.world)
                bar.set_postfix_str(f"loss {loss:.4f} lr {lr:.2g} {rate:.0f} img/s")
            if time.time() - saved > 60 * t.save_minutes:
                self.checkpoint()
                saved = time.time()
            if time.time() - sampled > 60 * t.sample_minutes:
                self.grid(f"grid_{self.step:06d}.png")
                sampled = time.time()
                self.log.restart()
            if self.held_out and time.time() - judged > 60 * t.judge_minutes:
                self.judge()
                judged = time.time()
                self.log.restart()
        bar.close()
        if self.rank == 0:
            self.checkpoint()
            if self.held_out:
                self.judge()
            self.grid("grid_final.png")
        if self.world > 1:
            dist.destroy_process_group()


def main(argv=None):
    p = argparse.ArgumentParser(prog="python -m diffmoe.train", description=__doc__,
                                formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("config")
    p.add_argument("--data-root", default=os.environ.get("DIFFMOE_DATA", "data"))
    p.add_argument("--out", default="runs", help="checkpoints, log and grids go to OUT/NAME")
    p.add_argument("--resume", action="store_true", help="continue from OUT/NAME/last.pt if there is one")
    p.add_argument("--init", help="start from the weights of this exported file (same as --set train.init=FILE)")
    p.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE")
    a = p.parse_args(argv)
    more = [f"train.init={a.init}"] if a.init else []
    c = configs.load(a.config, a.set + more)
    Trainer(c, a.data_root, os.path.join(a.out, c.name), a.resume).train()

