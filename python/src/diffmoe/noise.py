"""Seeded random numbers with the same bits as the Rust program.

ChaCha8, keyed by the seed, gives integers; images, steps and label draws use different streams. The Box–Muller transform
turns the integers into Gaussian numbers in float64, which are rounded to float32.
"""

from __future__ import annotations

import numpy as np

from ._libm import log, sincos

#: Streams below 2⁴⁰ are for initial noise, one per image; those above for the noise that steps add.
IMAGE_BITS = 40
MASK = (1 << 64) - 1


def gaussian(seed: int, image: int, count: int) -> np.ndarray:
    """Initial noise of an image (numbered from 0 within a run): ``count`` float32 numbers."""
    return _normal(seed, image, count)


def between(a: np.ndarray, b: np.ndarray, share: float) -> np.ndarray:
    """Noise on the arc between two noises, ``a`` at 0 and ``b`` at 1 (spherical interpolation)."""
    x, y, share = a.astype(np.float64), b.astype(np.float64), float(np.float32(share))
    cosine = (x * y).sum() / np.sqrt((x * x).sum() * (y * y).sum())
    factors = np.array([1 - share, share])
    if abs(cosine) < 0.9995:
        angle = np.arccos(cosine)
        factors = np.sin(factors * angle) / np.sin(angle)
    return (factors[0] * x + factors[1] * y).astype(np.float32)


def step_noise(seed: int, image: int, step: int, count: int) -> np.ndarray:
    """Noise that DDPM or DDIM adds to an image in a step (from 0)."""
    return _normal(seed, ((step + 1) << IMAGE_BITS) | image, count)


def random_rows(seed: int, purpose: int, rows: int, count: int) -> list[int]:
    """Random row numbers below ``rows``, without repetition until all are used. ``purpose`` is the index of the table."""
    # A deck of all rows, from which a drawn row is replaced by the last; only rows that are not in their own place are stored.
    drawn, left, moved = [], 0, {}
    shares = uniform(seed, MASK - purpose, count if rows else 0)
    for share in shares:
        if left == 0:
            left, moved = rows, {}
        pick = int(share * left)
        left -= 1
        last = moved.pop(left, left)
        drawn.append(last if pick == left else moved.get(pick, pick))
        if pick != left:
            moved[pick] = last
    return drawn


def uniform(seed: int, stream: int, count: int) -> np.ndarray:
    """Uniform float64 numbers in [0, 1) with 53 random bits."""
    words = chacha8(seed, stream, -(-2 * count // 16)).reshape(-1, 2).astype(np.uint64)
    integers = words[:count, 0] | (words[:count, 1] << np.uint64(32))
    return (integers >> np.uint64(11)).astype(np.float64) / (1 << 53)


def _normal(seed: int, stream: int, count: int) -> np.ndarray:
    pairs = uniform(seed, stream, 2 * -(-count // 2)).reshape(-1, 2)
    # 1 - u is in (0, 1], so the logarithm is finite.
    radius = np.sqrt(-2.0 * log(1.0 - pairs[:, 0]))
    sine, cosine = sincos(2 * np.pi * pairs[:, 1])
    numbers = np.stack([radius * cosine, radius * sine], axis=1)
    return numbers.astype(np.float32).reshape(-1)[:count]


def _key(seed: int) -> list[int]:
    """The key: eight words from PCG32, as in ``seed_from_u64`` of the crate ``rand_core`` 0.9."""
    words, state = [], seed & MASK
    for _ in range(8):
        state = (state * 6364136223846793005 + 11634580027462260723) & MASK
        shifted = (((state >> 18) ^ state) >> 27) & 0xFFFFFFFF
        turn = state >> 59
        words.append(((shifted >> turn) | (shifted << (32 - turn))) & 0xFFFFFFFF)
    return words


def chacha8(seed: int, stream: int, blocks: int) -> np.ndarray:
    """The first blocks of a stream, ``[blocks, 16]`` uint32, computed in parallel."""
    state = np.empty((16, blocks), np.uint32)
    state[:4] = np.array([0x61707865, 0x3320646E, 0x79622D32, 0x6B206574], np.uint32)[:, None]
    state[4:12] = np.array(_key(seed), np.uint32)[:, None]
    state[12], state[13] = np.arange(blocks, dtype=np.uint32), 0
    state[14], state[15] = stream & 0xFFFFFFFF, stream >> 32
    a, b, c, d = (state[i : i + 4].copy() for i in (0, 4, 8, 12))
    for _ in range(4):
        a, b, c, d = _quarter(a, b, c, d)
        # The second half of a double round works on diagonals: rotate the rows, and back.
        b, c, d = (np.roll(row, -n, axis=0) for n, row in ((1, b), (2, c), (3, d)))
        a, b, c, d = _quarter(a, b, c, d)
        b, c, d = (np.roll(row, n, axis=0) for n, row in ((1, b), (2, c), (3, d)))
    return (np.concatenate([a, b, c, d]) + state).T


def _quarter(a, b, c, d):
    def turn(x, bits):
        return (x << np.uint32(bits)) | (x >> np.uint32(32 - bits))

    a = a + b
    d = turn(d ^ a, 16)
    c = c + d
    b = turn(b ^ c, 12)
    a = a + b
    d = turn(d ^ a, 8)
    c = c + d
    b = turn(b ^ c, 7)
    return a, b, c, d
