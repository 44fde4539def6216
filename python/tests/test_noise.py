"""Noise has the same bits as in the Rust program."""

import hashlib

import numpy as np

from diffmoe._libm import log, sincos
from diffmoe.noise import chacha8, gaussian, random_rows, step_noise, uniform

#: SHA-256 of noise from the Rust program: seed 11, images 0 to 99, 3·64·64 numbers each (data/README.md).
CHECKSUM = "b18b298eeb4dcebc9de2a2cc99f376e04f806d3250dc478a1432f7d5763857bc"


def test_first_numbers():
    # src/scheduler/noise.rs has the same test.
    assert gaussian(1, 0, 5).view(np.uint32).tolist() == [1063476734, 1056664576, 1048847452, 1068058032, 3192711832]
    assert step_noise(1, 3, 0, 8)[:3].view(np.uint32).tolist() == [3190475097, 1061277346, 3192609829]


def test_a_hundred_images():
    noise = np.stack([gaussian(11, image, 3 * 64 * 64) for image in range(100)])
    assert hashlib.sha256(noise.astype("<f4").tobytes()).hexdigest() == CHECKSUM


def test_images_steps_and_seeds_have_noise_of_their_own():
    noises = [gaussian(1, 3, 8), gaussian(1, 4, 8), gaussian(2, 3, 8), step_noise(1, 3, 0, 8), step_noise(1, 3, 1, 8)]
    assert len({noise.tobytes() for noise in noises}) == 5
    assert np.array_equal(gaussian(1, 3, 5), noises[0][:5]), "a prefix does not depend on the length"
    assert len({gaussian(seed, 0, 4).tobytes() for seed in (0, 1 << 63, (1 << 64) - 1)}) == 3


def test_moments():
    noise = gaussian(7, 3, 100_001).astype(np.float64)
    assert len(noise) == 100_001
    assert abs(noise.mean()) < 0.01 and abs((noise**2).mean() - 1) < 0.02 and abs((noise**4).mean() - 3) < 0.1


def test_chacha_with_the_zero_key(monkeypatch):
    """The keystream of ChaCha8 for a key of zeros (Strombergson's test vectors, TC1)."""
    monkeypatch.setattr("diffmoe.noise._key", lambda seed: [0] * 8)
    words = chacha8(0, 0, 1).astype("<u4").tobytes()
    assert words[:16].hex() == "3e00ef2f895f40d67f5bb8e81f09a5a1"


def test_rows_repeat_only_when_all_were_drawn():
    rows = random_rows(5, 0, 10, 20)
    assert sorted(rows[:10]) == sorted(rows[10:]) == list(range(10)) and rows[:10] != rows[10:]
    assert random_rows(5, 0, 0, 3) == []
    assert random_rows(5, 1, 10, 20) != rows


def test_log_sin_and_cos_agree_with_numpy():
    x = 1 - uniform(3, 0, 200_000)
    assert np.allclose(log(x), np.log(x), rtol=4e-16, atol=0)
    angles = np.concatenate([2 * np.pi * uniform(4, 0, 200_000), np.arange(9) * np.pi / 4, [1e-9, 2e-8, 2 * np.pi]])
    for multiple in (1, 2, 3, 4):  # strongest cancellation
        angles = np.append(angles, multiple * np.pi / 2 + np.linspace(-1e-6, 0, 101))
    sine, cosine = sincos(angles)
    assert np.abs(sine - np.sin(angles)).max() < 2.3e-16 and np.abs(cosine - np.cos(angles)).max() < 2.3e-16
    small = np.abs(np.cos(angles)) < 1e-5
    assert np.allclose(cosine[small], np.cos(angles)[small], rtol=4e-16, atol=0)
