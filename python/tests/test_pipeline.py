"""Calls of the pipeline; images compared with those of the Rust program."""

import io
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import ASSETS, DATA, FIXTURES, error
from PIL import Image

from diffmoe import ModelError, Pipeline, SettingsError, schedulers
from diffmoe.config import LabelTable
from diffmoe.images import png, to_bytes
from diffmoe.noise import gaussian, random_rows
from diffmoe.settings import choose

GAP = 4  # pixels between images in a grid written by the command line tool


def tiles(file, side, count):
    """The images of a recorded grid."""
    pixels = np.asarray(Image.open(DATA / file).convert("RGB")).astype(int)
    columns = (pixels.shape[1] + GAP) // (side + GAP)
    places = [divmod(i, columns) for i in range(count)]
    return [pixels[r * (side + GAP) :][:side, c * (side + GAP) :][:, :side] for r, c in places]


def assert_same_images(images, recorded):
    assert len(images) == len(recorded)
    for image, wanted in zip(images, recorded):
        assert wanted.std() > 5, "the recorded image must not be uniform"
        assert np.abs(np.asarray(image).astype(int) - wanted).max() <= 2


def test_images_of_labels_are_those_of_the_rust_program(eurosat):
    out = eurosat(labels=["Residential", "River"], seed=7, num_inference_steps=3, scheduler="heun")
    assert_same_images(out.images, tiles("eurosat.png", 64, 2))
    assert out.images[0].size == (64, 64)
    images, trace = out
    assert images is out.images and trace.labels == [["Residential", "River"]]
    assert out.settings == {"num_inference_steps": 3, "guidance_scale": 2.0, "scheduler": "heun"}
    assert out.frames.shape == (3, 2, 64, 64, 3) and np.array_equal(out.frames[-1][1], np.asarray(images[1]))


def test_images_of_prompts_are_those_of_the_rust_program(tiny):
    out = tiny(
        prompt=["a red robot", "A Robot, fluent 3D"],
        negative_prompt="blob",
        guidance_scale=1.8,
        num_images=3,
        generator=5,
        num_inference_steps=4,
        scheduler="dpmpp_2m",
        routing="pool",
        mute=[(1, 2)],
    )
    assert_same_images(out.images, tiles("prompts.png", 6, 3))


def test_batches_change_no_image(tiny):
    run = lambda **more: tiny(prompt=["a red robot", "blob"], seed=3, num_inference_steps=2, num_images=5, **more)  # noqa: E731
    whole, parts = run(), run(batch_size=2)
    assert error(parts.samples, whole.samples) < 1e-5
    assert np.array_equal(parts.trace.masks, whole.trace.masks) and parts.trace.labels == whole.trace.labels
    assert whole.trace.images == 5
    single = tiny(prompt="a red robot", seed=3, num_inference_steps=2)
    assert error(single.samples, whole.samples[:1]) < 1e-5


def test_diffusers_names(tiny):
    out = tiny(prompt=["a red robot", "blob"], seed=1, num_inference_steps=1, num_images_per_prompt=2, output_type="np")
    assert out.trace.labels == [["a red robot", "a red robot", "blob", "blob"]]
    assert all(image.dtype == np.uint8 and image.shape == (6, 6, 3) for image in out.images)
    latent = tiny(prompt="blob", seed=1, num_inference_steps=1, output_type="latent")
    assert latent.images[0].shape == (3, 6, 6) and latent.images[0].dtype == np.float32
    noise = np.random.default_rng(0).normal(size=(1, 3, 6, 6))
    given = [tiny(prompt="blob", latents=noise, seed=s, num_inference_steps=2).samples for s in (1, 2)]
    assert np.array_equal(*given)
    generator = type("Generator", (), {"initial_seed": lambda self: 9})()  # as torch.Generator
    assert tiny(prompt="blob", generator=generator, num_inference_steps=1).seed == 9
    assert 0 <= tiny(prompt="blob", generator=np.random.default_rng(1), num_inference_steps=1).seed < 1 << 32
    assert 0 <= tiny(prompt="blob", num_inference_steps=1).seed < 1_000_000


def test_callback_sees_and_changes_every_step(tiny):
    seen = []

    def callback(pipe, step, time, values):
        assert pipe is tiny
        seen.append((step, time))
        return {"latents": np.zeros_like(values["latents"])} if step == 2 else {}

    out = tiny(prompt="blob", seed=1, num_inference_steps=3, callback_on_step_end=callback)
    assert [step for step, _ in seen] == [0, 1, 2] and [t for _, t in seen] == pytest.approx([0, 1 / 3, 2 / 3])
    assert not out.samples.any()


def test_labels_by_name_number_and_table():
    pipe = Pipeline.from_pretrained(ASSETS / "emoji.safetensors")
    out = pipe(labels={"subject": ["Fox", 3], "style": "any"}, seed=4, num_inference_steps=1, scheduler="euler")
    subjects, styles = pipe.config.labels
    assert out.trace.labels == [["fox", subjects.values[3]], [str(styles.null)] * 2]
    random = pipe(seed=4, num_inference_steps=1, scheduler="euler", num_images=2)
    assert len(set(random.trace.labels[0])) == 2
    assert f"{subjects.null} labels of subject" in repr(pipe)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"labels": "Foresty"}, "unknown class 'Foresty'; give a number from 0 to 9 or a name, such as Forest"),
        ({"labels": 10.5}, "class must be a name or a number, got 10.5"),
        ({"labels": 11}, "unknown class 11"),
        ({"labels": {"style": 1}}, "no labels for 'style'; it has class"),
        ({"labels": []}, "must not be empty"),
        ({"labels": 1, "class_labels": 1}, "give only one"),
        ({"labels": 1, "prompt": "a fox"}, "does not take prompts"),
        ({"labels": 1, "negative_prompt": "blob"}, "does not take prompts"),
        ({"labels": 1, "num_images": 0}, "num_images must be a whole number of at least 1, got 0"),
        ({"labels": 1, "num_images": 2, "num_images_per_prompt": 2}, "not both"),
        ({"labels": 1, "seed": -1}, "seed must be a whole number from 0"),
        ({"labels": 1, "seed": 1, "generator": 1}, "not both"),
        ({"labels": 1, "guidance_scale": float("nan")}, "guidance_scale must be 0–100"),
        ({"labels": 1, "num_inference_steps": 0}, "num_inference_steps must be 1–10000, got 0"),
        ({"labels": 1, "num_inference_steps": 2.5}, "got 2.5"),
        ({"labels": 1, "mute": "3:1"}, "mute must be a list of pairs (block, expert), got '3:1'"),
        ({"labels": 1, "scheduler": "ddim"}, "choose euler, heun"),
        ({"labels": 1, "routing": "both"}, "expected token or pool"),
        ({"labels": 1, "gamma": 2}, "gamma must be 0–1"),
        ({"labels": 1, "threshold_shift": 3}, "threshold_shift must be -1–1"),
        ({"labels": 1, "mute": [(0, 1)]}, "block 0 has no experts to mute; the blocks with experts are 1, 3"),
        ({"labels": 1, "mute": [(1, 9)]}, "has no expert 9; it has 8"),
        ({"labels": 1, "output_type": "jpg"}, "pil, np or latent"),
        ({"labels": 1, "batch_size": 0}, "batch_size must be at least 1"),
        ({"labels": 1, "latents": np.zeros((1, 3, 6, 6))}, "latents must have shape [1, 3, 64, 64]"),
    ],
)
def test_invalid_settings_are_refused(eurosat, arguments, reason):
    with pytest.raises(SettingsError) as caught:
        eurosat(**arguments)
    assert reason in str(caught.value)


def test_thresholds_decide_how_much_is_computed(tiny):
    run = lambda **more: tiny(prompt="blob", seed=1, num_inference_steps=2, **more).trace  # noqa: E731
    assert run(gamma=0.0).capacity == 4 and run(gamma=1.0).capacity == 0
    assert run(threshold_shift=0.2).capacity < run().capacity < run(threshold_shift=-0.2).capacity
    assert not run(mute=[(1, 0)]).counts()[..., 0].any()


def test_ddpm_models_draw_latents():
    pipe = Pipeline.from_pretrained(FIXTURES / "diffmoe_ddpm")
    for scheduler in ("ddpm", schedulers.DDIM(eta=0.5), schedulers.UniPC(guided_channels="all")):
        out = pipe(labels=[1, 7], seed=1, num_inference_steps=4, guidance_scale=1.5, scheduler=scheduler)
        assert out.images[0].shape == (4, 8, 8) and out.frames.shape == (4, 2, 8, 8, 3)
        assert out.trace.guided.tolist() == [True, False] * 4
    pipe.scheduler = schedulers.DDIM()
    assert pipe(labels=1, num_inference_steps=2).settings["scheduler"] == "ddim"


def test_dense_models_have_an_empty_trace(tmp_path):
    out = Pipeline.from_pretrained(FIXTURES / "dense_flow")(labels=1, seed=1, num_inference_steps=2)
    assert out.trace.capacity is None and out.trace.images == 0 and out.trace.table() == out.trace.summary() == []
    for name in ("t.json", "t.safetensors"):
        out.trace.save(tmp_path / name)
        assert type(out.trace).load(tmp_path / name).steps == 2
    assert "<img" in out._repr_html_() or "canvas" in out._repr_html_()


def test_pixels():
    samples = np.array([-1.0, 1.0, 0.0, -9.0, 9.0, 0.0039215], np.float32).reshape(1, 3, 1, 2)
    assert to_bytes(samples).reshape(-1).tolist() == [0, 128, 255, 255, 0, 128]
    pixels = np.random.default_rng(0).integers(0, 256, (5, 20, 3), np.uint8)
    pixels[2] //= 64  # few values: another filter
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(png(pixels)))), pixels)


def test_models_are_found_by_name(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match="DIFFMOE_MODELS"):
        Pipeline.from_pretrained("eurosat")
    monkeypatch.setenv("DIFFMOE_MODELS", str(ASSETS))
    assert Pipeline.from_pretrained("eurosat").config.name == "eurosat"


def test_a_run_from_an_image_takes_the_last_steps(tiny):
    sample = np.random.default_rng(0).normal(size=(3, 6, 6)).astype(np.float32)
    draw = lambda **more: tiny(prompt="a red robot", seed=3, num_inference_steps=5, scheduler="euler", **more)  # noqa: E731
    out = draw(image=sample, strength=0.4)
    assert out.trace.steps == 2 and len(out.frames) == 2
    # The same by hand: z = t·image + (1 - t)·noise at t = 3/5, and two steps of the whole run.
    start = 0.6 * sample + 0.4 * gaussian(3, 0, sample.size).reshape(sample.shape)
    replaced = lambda pipe, step, time, z: {"latents": start[None].astype(np.float32)} if step == 2 else None  # noqa: E731
    whole = draw(callback_on_step_end=replaced)
    assert error(out.samples, whole.samples) < 1e-6
    near = [error(draw(image=sample, strength=s).samples, sample[None]) for s in (0.2, 0.6, 1.0)]
    assert near == sorted(near)
    assert np.array_equal(draw(image=sample, strength=1.0).samples, draw().samples)


@pytest.mark.parametrize("scheduler", ["euler", "heun", "dpmpp_2m", "unipc"])
def test_what_a_mask_keeps_is_the_image(tiny, scheduler):
    pixels = np.random.default_rng(1).integers(0, 256, (6, 6, 3)).astype(np.uint8)
    mask = np.zeros((6, 6))
    mask[2:4, 1:5] = 1
    draw = lambda **more: tiny(  # noqa: E731
        prompt="blob", seed=3, num_inference_steps=4, scheduler=scheduler, output_type="np", image=pixels, **more
    )
    for strength in (None, 0.5):
        out = draw(mask_image=mask, strength=strength)
        same = (out.images[0] == pixels).all(-1)
        assert same[mask == 0].all() and not same[mask == 1].any()
    everything = draw(mask_image=np.ones((6, 6)), strength=0.5)
    assert np.array_equal(everything.samples, draw(strength=0.5).samples)
    assert out.settings["num_inference_steps"] == 4


def test_images_that_do_not_fit_are_refused(tiny):
    sample = np.zeros((3, 6, 6))
    for wrong, expected in [
        ({"strength": 0.5}, "need image"),
        ({"image": sample, "strength": 0}, "above 0"),
        ({"image": sample[:2]}, "must be a Pillow image"),
        ({"image": sample, "mask_image": np.full((6, 6), 2.0)}, "from 0 to 1"),
    ]:
        with pytest.raises(SettingsError, match=expected):
            tiny(prompt="blob", seed=1, num_inference_steps=2, **wrong)
    grey = Image.new("RGB", (60, 30), (51, 51, 51))
    out = tiny(prompt="blob", seed=1, num_inference_steps=9, image=grey, strength=0.1, mask_image=Image.new("L", (9, 9)))
    assert error(out.samples, np.full((1, 3, 6, 6), -0.6)) < 1e-6


def test_a_blend_is_a_row_of_the_table(eurosat):
    draw = lambda **more: eurosat(seed=3, num_inference_steps=2, output_type="latent", **more)  # noqa: E731
    ends = [draw(labels=name).samples for name in ("River", "Forest")]
    for strength, end in ((0.0, ends[0]), (1.0, ends[1])):
        assert np.array_equal(draw(labels="River", mix_labels="Forest", mix_strength=strength).samples, end)
    table = eurosat.model.weights[eurosat.config.labels[0].tensor]
    river, forest, other = (eurosat.config.labels[0].find(name) for name in ("River", "Forest", "SeaLake"))
    kept = table[other].copy()
    share = np.float32(0.3)
    try:
        table[other] = (np.float32(1) - share) * table[river] + share * table[forest]
        wanted = draw(labels=["SeaLake", "Forest"]).samples
    finally:
        table[other] = kept
    out = draw(labels=["River", "Forest"], mix_labels="Forest", mix_strength=0.3)
    assert np.array_equal(out.samples, wanted) and out.trace.labels == [["70% River + 30% Forest", "Forest"]]
    assert error(out.samples[:1], ends[0]) > 1e-3
    for wrong, expected in [
        ({"mix_labels": "Volcano"}, "unknown class"),
        ({"mix_labels": ["River", "Forest"]}, "one label for a table"),
        ({"mix_labels": "River", "mix_strength": 1.5}, "mix_strength must be"),
    ]:
        with pytest.raises(SettingsError, match=expected):
            draw(**wrong)


def test_variations_lie_between_two_seeds(tiny):
    draw = lambda seed, **more: tiny(prompt="blob", seed=seed, num_inference_steps=2, **more).samples  # noqa: E731
    ends = draw(1), draw(2)
    assert np.array_equal(draw(1, variation_seed=2), ends[0])
    assert np.array_equal(draw(1, variation_seed=2, variation_strength=1.0), ends[1])
    far = [error(draw(1, variation_seed=2, variation_strength=s), ends[0]) for s in (0.1, 0.4, 0.9)]
    assert far == sorted(far) and far[0] > 0
    for wrong in ({"variation_strength": 0.5}, {"variation_seed": 2, "variation_strength": 1.5}):
        with pytest.raises(SettingsError, match="variation_strength"):
            draw(1, **wrong)


def test_labels_left_open_are_those_that_the_model_draws_well():
    labels = (LabelTable("subject", "a", 9, ()), LabelTable("style", "b", 2, ()))
    config = SimpleNamespace(labels=labels, text=None, name="x", defaults={"showcase": [[1, 0], [4, 1], [7, 1]]})
    rows = choose(config, None, None, 6, None, 5)[0]
    assert rows[0] == [1, 4, 7, 4, 1, 7]  # as src/pipeline/showcase.rs
    assert choose(config, {"subject": "best", "style": "best"}, None, 6, None, 5)[0] == rows
    assert set(choose(config, {"style": 1}, None, 4, None, 5)[0][0]) == {4, 7}
    varied = choose(config, {"subject": "varied", "style": "varied"}, None, 6, None, 5)[0]
    assert varied == [random_rows(5, 0, 9, 6), random_rows(5, 1, 2, 6)]
    # Nothing in the showcase has subject 8.
    assert set(choose(config, {"subject": 8}, None, 4, None, 5)[0][1]) <= {0, 1}
