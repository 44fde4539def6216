"""Prompts, tokenizer, text encoder and cross-attention."""

import json
import os

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from tokenizers import Tokenizer

from helpers import run_tiny, small_model

from diffmoe.train import config as configs
from diffmoe.train import data, export, exported, flow, loop, prompts, sample, sampler, start, text

TEXT = {"vocab_size": 40, "max_length": 7, "hidden_size": 12, "depth": 2, "num_heads": 3}


def small(seed=0, **more):
    """A small model whose every weight is random, the zero-initialised too."""
    torch.manual_seed(seed)
    model = small_model(input_size=6, labels=(), text=TEXT, **more).eval()
    for w in model.parameters():
        if w.requires_grad:
            torch.nn.init.normal_(w, std=0.2)
    return model


def tokens(*rows):
    return torch.tensor([[text.CLS, *r, text.SEP] + [text.PAD] * (5 - len(r)) for r in rows])


@pytest.mark.parametrize("case", ["t2i_tiny", "t2i_bpe"])
def test_the_recorded_case_is_reproduced(case):
    """The fixtures that the Rust implementation is checked against too."""
    folder = os.path.join(os.path.dirname(__file__), "../../tests/fixtures", case)
    model, meta = exported.load_exported(os.path.join(folder, "model.safetensors"))
    io = load_file(os.path.join(folder, "io.safetensors"))
    reader = exported.described_reader(meta)
    asked, negative = ([reader.encode(p)] for p in (meta["prompts"], [meta["negative"]] * 3))
    assert torch.equal(asked[0], io["tokens"].long()) and torch.equal(negative[0], io["negative_tokens"].long())
    close = lambda a, b: torch.testing.assert_close(a, b, rtol=0, atol=2e-5)
    close(model.text_encoder(asked[0])[0], io["text.out"])
    close(model(io["x"], io["t"], asked)[0], io["out"])
    close(sampler.sample(model, io["x"], asked, meta["steps"], meta["cfg_scale"], "euler", negative), io["euler_cfg"])
    close(sampler.sample(model, io["x"], asked, meta["heun_steps"], meta["cfg_scale"], "heun", negative), io["heun_cfg"])
    close(sampler.sample(model, io["x"], asked, meta["steps"], 1.0), io["euler_nocfg"])


def test_names_and_wordings():
    assert prompts.with_article("robot") == "a robot" and prompts.with_article("eagle") == "an eagle"
    for bare in ("cherries", "T-Rex", "family: man, boy", "glasses"):
        assert prompts.with_article(bare) == bare
    assert prompts.with_article("unicorn") == "a unicorn" and prompts.with_article("pair of scissors") == "a pair of scissors"
    assert prompts.wordings("automobile")[0] == "automobile" and "car" in prompts.wordings("automobile")
    assert not set(prompts.UNSEEN) & set(prompts.SENTENCES)


def test_prompter_mentions_what_it_was_given_and_repeats_itself():
    t = prompts.train_tokenizer(prompts.vocabulary_texts(["robot", "automobile"], data.STYLES), 200, 16)
    p = prompts.Prompter(["robot", "automobile"], data.STYLES, prompts.Reader(t, 16))
    said = [p.sentence(1, 3, torch.Generator().manual_seed(s)) for s in range(400)]
    assert said == [p.sentence(1, 3, torch.Generator().manual_seed(s)) for s in range(400)]
    subject = [any(w in s for w in prompts.wordings("automobile")) for s in said]
    style = [any(w in s for w in prompts.STYLE_PHRASES["fluent3d"]) for s in said]
    share = lambda flags: sum(flags) / len(flags)
    assert share([a and b for a, b in zip(subject, style)]) == pytest.approx(1 - 2 * prompts.RARE, abs=0.05)
    assert all(a or b for a, b in zip(subject, style))
    assert len(set(said)) > 30
    ids = p.draw(torch.tensor([0, 1]), torch.tensor([0, 3]), torch.Generator().manual_seed(1))
    assert ids.shape == (2, 16) and (ids[:, 0] == text.CLS).all() and ((ids == text.SEP).sum(1) == 1).all()


def test_tokenizer_folds_case_and_accents_and_cuts_long_prompts():
    t = prompts.train_tokenizer(["a robot, fluent 3d", "piñata"], 200, 8)
    assert [t["model"]["vocab"][s] for s in text.SPECIAL] == [0, 1, 2, 3]
    encode = prompts.Reader(t, 8).encode
    same = encode(["A  Robot, FLUENT 3D", "a robot,fluent 3d"])
    assert torch.equal(same[0], same[1]) and text.UNK not in same
    assert torch.equal(encode(["Pinata"]), encode(["piñata"]))
    long = encode(["robot " * 50])
    assert long.shape == (1, 8) and long[0, -1] == text.SEP
    assert torch.equal(encode([""]), text.null_tokens(1, 8))
    assert encode(["☃"])[0, 1] == text.UNK


def test_byte_pairs_know_every_letter_and_take_special_names_for_text():
    t = prompts.train_tokenizer(["a robot, fluent 3d", "piñata", "the robot's"], 300, 12, "bpe")
    assert [t["model"]["vocab"][s] for s in text.SPECIAL] == [0, 1, 2, 3] and prompts.Reader(t, 12).entries <= 300
    encode = prompts.Reader(t, 12).encode
    same = encode(["A  Robot, FLUENT 3D", "a robot,fluent 3d", "a robot,\n\tfluent 3d"])
    assert torch.equal(same[0], same[1]) and torch.equal(same[0], same[2]) and text.UNK not in same
    long = encode(["robot " * 50])
    assert long.shape == (1, 12) and long[0, -1] == text.SEP
    assert torch.equal(encode([""]), text.null_tokens(1, 12))
    # A letter that was never seen is known by its bytes, all but the last, which ends the word.
    snow = encode(["☃"])[0].tolist()
    assert snow[3] == text.UNK and text.UNK not in snow[1:3] and snow[4] == text.SEP
    for kind in prompts.KINDS:
        t = prompts.train_tokenizer(["a robot"], 300, 12, kind)
        assert (prompts.Reader(t, 12).encode(["[SEP] [PAD]"])[0] == text.SEP).sum() == 1


@pytest.mark.parametrize("kind", prompts.KINDS)
def test_prompts_are_read_as_the_package_that_makes_vocabularies_reads_them(kind):
    names, g = ["robot", "automobile", "T-Rex", "family: man, boy"], torch.Generator().manual_seed(0)
    t = prompts.train_tokenizer(prompts.vocabulary_texts(names, data.STYLES), 300, 16, kind)
    p = prompts.Prompter(names, data.STYLES, prompts.Reader(t, 16))
    said = [p.sentence(i % 4, i % 8, g) for i in range(500)] + ["", "robot " * 50, "Ünïcode ☃ 42, isn't it?", "[SEP] [PAD]"]
    theirs = Tokenizer.from_str(json.dumps(t))
    theirs.encode_special_tokens = True
    ids = [e.ids + [text.PAD] * (16 - len(e.ids)) for e in theirs.encode_batch(said)]
    assert p.encode(said).tolist() == ids


def test_a_tokenizer_of_another_kind_than_asked_for_is_refused():
    with pytest.raises(ValueError, match="wordpiece"):
        configs.from_dict({"text": {"tokenizer": "unigram"}})
    t = prompts.train_tokenizer(["a robot"], 100, 12)
    prompts.check_kind(t, "wordpiece")
    with pytest.raises(ValueError, match="come with a WordPiece"):
        prompts.check_kind(t, "bpe")


def test_attention_is_the_textbook_one_and_ignores_padding():
    g = torch.Generator().manual_seed(0)
    q, k, v = torch.randn(2, 5, 3, 4, generator=g), torch.randn(2, 7, 3, 4, generator=g), torch.randn(2, 7, 3, 4, generator=g)
    ids = tokens([5, 6], [5, 6, 7, 8, 9])
    got = text.attend(q, k, v, text.padding_bias(ids))
    want = F.scaled_dot_product_attention(*(x.transpose(1, 2) for x in (q, k, v)),
                                          attn_mask=(ids != text.PAD)[:, None, None])
    torch.testing.assert_close(got, want.transpose(1, 2).reshape(2, 5, 12))


def test_padding_changes_nothing():
    model = small()
    ids = tokens([5, 6])
    states, bias = model.text_encoder(ids)
    shorter, _ = model.text_encoder(ids[:, :4])
    torch.testing.assert_close(states[:, :4], shorter)
    # What stands in the padding's rows is never read.
    x = torch.randn(1, 9, 16)
    cross = model.blocks[0].cross_attn
    garbage = states.clone()
    garbage[:, 4:] = 1e4
    torch.testing.assert_close(cross(x, states, bias), cross(x, garbage, bias))


def test_order_and_every_token_of_the_prompt_count():
    model = small()
    x, t = torch.randn(1, 3, 6, 6), torch.tensor([0.3])
    out = lambda *ids: model(x, t, [tokens(list(ids))])[0]
    base = out(5, 6, 7)
    for other in [(7, 6, 5), (5, 6, 8), (5, 6), ()]:
        assert (out(*other) - base).abs().max() > 1e-3, other


def test_blocks_follow_the_formula():
    """x += cross(x) stands between the halves of a block, without norm, shift or gate."""
    model = small()
    block = model.blocks[0]
    x, c, ids = torch.randn(2, 9, 16), torch.randn(2, 16), tokens([5], [6, 7, 8])
    states = model.text_encoder(ids)
    seen = {}
    block.cross_attn.register_forward_hook(lambda m, a, y: seen.update(x=a[0], y=y))
    block.mlp.register_forward_hook(lambda m, a, y: seen.update(h=a[0], ffn=y[0]))
    got, _ = block(x, c, states)
    s1, c1, g1, s2, c2, g2 = block.adaLN_modulation(c)[:, None].chunk(6, dim=2)
    norm = lambda x: F.layer_norm(x, (16,), eps=1e-6)
    first = x + g1 * block.attn(norm(x) * (1 + c1) + s1)
    torch.testing.assert_close(seen["x"], first)
    torch.testing.assert_close(seen["h"], norm(first + seen["y"]) * (1 + c2) + s2)
    torch.testing.assert_close(got, first + seen["y"] + g2 * seen["ffn"])


def test_a_fresh_model_does_not_look_at_the_text():
    """Zero-initialised output projections: the blocks start as if there were no text."""
    model = small_model(input_size=6, labels=(), text=TEXT)
    assert all(b.cross_attn.proj.weight.abs().max() == 0 for b in model.blocks)
    x, c = torch.randn(1, 9, 16), torch.randn(1, 16)
    a, b = (model.blocks[0](x, c, model.text_encoder(tokens(r)))[0] for r in ([5], [6, 7]))
    assert torch.equal(a, b)


def test_gradients_reach_the_whole_encoder():
    model = small().train()
    out, bce = model(torch.randn(2, 3, 6, 6), torch.tensor([0.2, 0.7]), [tokens([5, 6], [7])])
    (out.square().mean() + bce).backward()
    for name, w in model.named_parameters():
        if w.requires_grad:
            assert w.grad is not None and w.grad.abs().max() > 0, name


def test_labels_and_text_together():
    torch.manual_seed(0)
    model = small_model("dense", input_size=6, labels=[("style_embedder", 4)], text=TEXT)
    nulls = model.null_labels(2)
    assert nulls[0].tolist() == [4, 4] and torch.equal(nulls[1], text.null_tokens(2, 7))
    out, _ = model(torch.randn(2, 3, 6, 6), torch.rand(2), [torch.tensor([0, 4]), tokens([5], [6])])
    assert out.shape == (2, 3, 6, 6)


def test_prompt_dropout_and_negative_prompts():
    ids = tokens(*[[5, 6]] * 5000)
    null = text.null_tokens(1, 7)[0]
    dropped, = flow.drop_labels([ids], [null], 0.1, 0.05, torch.Generator().manual_seed(0))
    gone = (dropped == null).all(1)
    assert abs(gone.float().mean() - 0.1) < 0.02 and torch.equal(dropped[~gone], ids[~gone])
    model, z = small(), torch.randn(1, 3, 6, 6)
    asked, avoid = [tokens([5, 6])], [tokens([8])]
    plain = sampler.sample(model, z, asked, 2, 1.5)
    assert torch.equal(plain, sampler.sample(model, z, asked, 2, 1.5, negative=[text.null_tokens(1, 7)]))
    assert (sampler.sample(model, z, asked, 2, 1.5, negative=avoid) - plain).abs().max() > 1e-3
    alone = sampler.sample(model, z, asked, 2, 1.0)
    torch.testing.assert_close(sampler.sample(model, z, asked, 2, 1.5, negative=asked), alone)


TEXT_SECTION = ["text.hidden_size=32", "text.depth=1", "text.num_heads=2", "text.vocab_size=120", "text.max_length=16",
                "model.depth=2",
                'sample.grid=["a red ball, *", "blue ball, noto"]']


@pytest.mark.parametrize("kind", ["wordpiece", "bpe"])
def test_training_learns_colours_from_prompts_and_survives_export(emoji_root, kind):
    more = [x for s in [*TEXT_SECTION, f"text.tokenizer={kind}"] for x in ("--set", s)]
    run_tiny(emoji_root, *more, "--set", "train.steps=20", "--set", "train.decay_fraction=1e-9")
    ck, loss = run_tiny(emoji_root, "--resume", *more, "--set", "train.steps=250")
    assert loss[-1] < 0.35 * loss[0], loss
    assert (emoji_root / "runs/tiny/grid_final.png").exists()
    model, config, labels, state = export.load_checkpoint(str(ck))
    assert labels == [] and state["step"] == 250
    for dtype in ("f32", "int8"):
        path = str(emoji_root / f"{dtype}.safetensors")
        export.main([str(ck), path, "--dtype", dtype, "--data-root", str(emoji_root), "--reference", path + ".ref"])
        loaded, meta = exported.load_exported(path)
        ref = load_file(path + ".ref")
        out, _ = loaded(ref["x"], ref["t"], [ref["tokens"].long()])
        torch.testing.assert_close(out, ref["out"], rtol=0, atol=1e-5)
    meta = exported.read_description(path)
    reader = exported.described_reader(meta)
    prompts.check_kind(reader.document, kind)
    assert meta["text"]["vocab_size"] == reader.entries and meta["labels"] == [] and meta["params"]["num_classes"] == 0
    assert meta["text"]["examples"] == ["a red ball, noto"]
    assert meta["text"]["subjects"] == ["red ball", "green ball", "blue ball", "red box"]
    # An unknown word is no error, and the words it was trained on steer the colour.
    asked = reader.encode(["a red ball, noto", "a blue ball, noto", "zebra!"])
    z = sample.draw(loaded, [asked], 10, 2.0, "heun")
    centre = z[:, :, 3:5, 3:5].mean((2, 3))
    assert centre[0, 0] > 0.2 > -0.2 > centre[0, 2] and centre[1, 2] > 0.2 > -0.2 > centre[1, 0], centre


def test_a_run_takes_the_tokenizer_with_the_weights(emoji_root):
    more = [x for s in TEXT_SECTION for x in ("--set", s)]
    ck, _ = run_tiny(emoji_root, *more, "--set", "train.steps=2")
    path = str(emoji_root / "m.safetensors")
    export.main([str(ck), path, "--dtype", "f32", "--data-root", str(emoji_root), "--no-recalibrate"])
    first = loop.tokenizer_of(torch.load(ck, weights_only=False))
    assert exported.read_description(path)["text"]["tokenizer"] == first
    trainer = lambda *sets: loop.Trainer(configs.load(emoji_root / "run.toml", sets), str(emoji_root),
                                          str(emoji_root / "again"), False)
    started = trainer(*TEXT_SECTION, f"train.init={path}", "train.teach_steps=0")
    assert started.reader.document == first
    same = exported.load_exported(path)[0].state_dict()
    assert all(torch.equal(w, same[k]) for k, w in started.model.state_dict().items())
    resumed = loop.Trainer(configs.load(emoji_root / "run.toml", TEXT_SECTION), str(emoji_root),
                            str(emoji_root / "runs/tiny"), True)
    assert resumed.reader.document == first
    with pytest.raises(ValueError, match="text-conditioned"):
        trainer(f"train.init={path}")


def test_more_sentences_are_learned_from_the_plainest(emoji_root):
    ck, _ = run_tiny(emoji_root, *(f"--set={s}" for s in [*TEXT_SECTION, "train.steps=30"]))
    path = str(emoji_root / "m.safetensors")
    export.main([str(ck), path, "--dtype", "f32", "--data-root", str(emoji_root), "--no-recalibrate"])
    source, _ = exported.load_exported(path)
    t = loop.Trainer(configs.load(emoji_root / "run.toml", [*TEXT_SECTION, f"train.init={path}", "train.teach_steps=200"]),
                      str(emoji_root), str(emoji_root / "more"), False)
    p, g = t.dataset.prompter, torch.Generator().manual_seed(7)
    answers, variance = start.answers_of_prompts(source, t.dataset)
    said = [p.said(i % 4, i % 2, g) for i in range(200)]
    target = answers([tuple(-1 if i is None else i for i in q[1:]) for q in said])
    error = lambda m: (m.text_pool(m.text_encoder(p.encode([q[0] for q in said]))[0][:, 0]) - target).square().mean() / variance
    with torch.no_grad():
        assert error(t.model) < 0.3 * error(source)
    plain = start.plainest(p, 1, 0), start.plainest(p, None, 0), start.plainest(p, 1, None), start.plainest(p, None, None)
    torch.testing.assert_close(answers([(1, 0), (-1, 0), (1, -1), (-1, -1)]),
                               source.text_pool(source.text_encoder(p.encode(plain))[0][:, 0]).detach())


def test_lessons_go_on_during_the_run(emoji_root):
    """The text encoder, at its own learning rate, stays with what it learned; a resumed run takes the next lesson."""
    ck, _ = run_tiny(emoji_root, "--set", "train.steps=2", "--set", "model.depth=2")
    path = str(emoji_root / "labels.safetensors")
    export.main([str(ck), path, "--dtype", "f32", "--data-root", str(emoji_root), "--no-recalibrate"])
    settings = [*TEXT_SECTION, f"train.init={path}", "train.teach_steps=0", "model.depth=2", "train.warmup=0", "train.drop_all=1"]
    begin = lambda folder, resume, *sets: loop.Trainer(configs.load(emoji_root / "run.toml", [*settings, *sets]),
                                                       str(emoji_root), str(emoji_root / folder), resume)
    t = begin("lessons", False, "train.teach_every=2", "train.text_lr=0.5")
    error = lambda: start.teacher(*exported.load_exported(path), t.dataset).loss(t.model).item()
    before, rates = error(), []
    for _ in range(30):
        t.one_step(2e-3)
        rates.append([group["lr"] for group in t.opt.param_groups])
    assert error() < 0.7 * before and rates[0] == [2e-3, 1e-3]
    t.checkpoint()
    again = begin("lessons", True, "train.teach_every=2", "train.text_lr=0.5")
    assert torch.equal(again.lessons.generator.get_state(), t.lessons.generator.get_state())
    with pytest.raises(ValueError, match="teach_every needs"):
        configs.load(emoji_root / "run.toml", ["train.teach_every=2"])


def test_parts_of_names():
    """``parts_of_names`` finds the words that occur in only one name and are not names themselves; free sentences contain
    some of them, and invented words."""
    names = ["milky way", "way out", "cat", "cat tree", "no 18"]
    parts = prompts.parts_of_names(names)
    assert parts == ["milky", "out", "tree"]
    g = torch.Generator().manual_seed(0)
    choose = lambda options: options[int(torch.randint(0, len(options), (), generator=g))]
    words = {word for _ in range(1000) for word in prompts.free_sentence(choose, parts).split()}
    assert set(parts) <= words and "way" not in words
    assert len({prompts.invented(choose) for _ in range(500)}) > 400


def test_free_sentences():
    """Every one names both and reads like none of the unseen ones."""
    g = torch.Generator().manual_seed(0)
    choose = lambda options: options[int(torch.randint(0, len(options), (), generator=g))]
    free = {prompts.free_sentence(choose) for _ in range(2000)}
    assert len(free) > 1000
    assert all(("{s}" in f) + ("{n}" in f) == 1 and f.count("{t}") == 1 for f in free)
    words = lambda forms: set(" ".join(forms).replace("(", "( ").replace(")", " )").split())
    new = words(prompts.UNSEEN) - words(free) - words(prompts.SENTENCES)
    assert new == {"version", "show", "way", "(", ")", "please", "would"} - words(free)
    assert {"version", "way", "please", "("} <= new


def test_prompts_start_from_labels(emoji_root):
    """The text encoder learns to say what the label tables said."""
    ck, _ = run_tiny(emoji_root, "--set", "train.steps=60", "--set", "model.depth=2")
    path = str(emoji_root / "labels.safetensors")
    export.main([str(ck), path, "--dtype", "f32", "--data-root", str(emoji_root)])
    labelled, meta = exported.load_exported(path)
    begin = lambda *sets: loop.Trainer(configs.load(emoji_root / "run.toml", [*TEXT_SECTION, f"train.init={path}", *sets]),
                                        str(emoji_root), str(emoji_root / "text"), False)
    t = begin("train.teach_steps=500")
    assert t.earlier["images"] == 60 * 32
    subjects, styles = (labelled.state_dict()[l["tensor"]] for l in meta["labels"])
    asked = t.dataset.prompter.encode(["a blue ball, noto", "red box", ""])
    model = t.model.eval()
    said = model.text_pool(model.text_encoder(asked)[0][:, 0])
    for row, (i, j) in zip(said, [(2, 0), (3, len(styles) - 1), (len(subjects) - 1, len(styles) - 1)]):
        every = (subjects[:, None] + styles[None]).flatten(0, 1)
        assert (every - row).square().sum(1).argmin() == i * len(styles) + j
    x, time = torch.randn(1, 3, 8, 8), torch.tensor([0.4])
    out = [model(x, time, [asked[:1]])[0], labelled(x, time, [torch.tensor([2]), torch.tensor([0])])[0]]
    assert (out[0] - out[1]).abs().mean() < 0.1 * out[1].abs().mean()
    with pytest.raises(ValueError, match="has no subject"):
        begin("train.teach_steps=1", 'data.subjects=["red ball", "grey ball"]')
