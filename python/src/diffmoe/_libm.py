"""Logarithm, sine and cosine in float64 with the same bits on every machine.

NumPy's own functions may differ in the last bit between machines, so a seed would not always give the same noise. Method
and coefficients are those of fdlibm, which the Rust program also uses (crate ``libm``). Only the ranges needed for noise
are covered. The fdlibm licence:

    Copyright (C) 1993 by Sun Microsystems, Inc. All rights reserved.
    Developed at SunSoft, a Sun Microsystems, Inc. business. Permission to use, copy, modify, and distribute this
    software is freely granted, provided that this notice is preserved.
"""

from __future__ import annotations

import numpy as np

_LN2_HIGH, _LN2_LOW = 6.93147180369123816490e-01, 1.90821492927058770002e-10
_LOG = (
    6.666666666666735130e-01,
    3.999999999940941908e-01,
    2.857142874366239149e-01,
    2.222219843214978396e-01,
    1.818357216161805012e-01,
    1.531383769920937332e-01,
    1.479819860511658591e-01,
)
_SIN = (
    -1.66666666666666324348e-01,
    8.33333333332248946124e-03,
    -1.98412698298579493134e-04,
    2.75573137070700676789e-06,
    -2.50507602534068634195e-08,
    1.58969099521155010221e-10,
)
_COS = (
    4.16666666666666019037e-02,
    -1.38888888888741095749e-03,
    2.48015872894767294178e-05,
    -2.75573143513906633035e-07,
    2.08757232129817482790e-09,
    -1.13596475577881948265e-11,
)
_TWO_OVER_PI = 6.36619772367581382433e-01
_ROUND = 1.5 / 2.0**-52
# π/2 in parts of 33 bits, each with the remainder after it.
_HALF_PI = (
    (1.57079632673412561417e00, 6.07710050650619224932e-11),
    (6.07710050630396597660e-11, 2.02226624879595063154e-21),
    (2.02226624871116645580e-21, 8.47842766036889956997e-32),
)


def _high(x: np.ndarray) -> np.ndarray:
    """The upper 32 bits of each number."""
    return (x.view(np.uint64) >> np.uint64(32)).astype(np.int64)


def log(x: np.ndarray) -> np.ndarray:
    """Natural logarithm of positive normal numbers."""
    high = _high(x) + (0x3FF00000 - 0x3FE6A09E)
    k = ((high >> 20) - 0x3FF).astype(np.float64)
    high = (high & 0x000FFFFF) + 0x3FE6A09E
    bits = (high.astype(np.uint64) << np.uint64(32)) | (x.view(np.uint64) & np.uint64(0xFFFFFFFF))
    f = bits.view(np.float64) - 1.0
    half_square = 0.5 * f * f
    s = f / (2.0 + f)
    z = s * s
    w = z * z
    even = w * (_LOG[1] + w * (_LOG[3] + w * _LOG[5]))
    odd = z * (_LOG[0] + w * (_LOG[2] + w * (_LOG[4] + w * _LOG[6])))
    rest = odd + even
    result = s * (half_square + rest) + k * _LN2_LOW - half_square + f + k * _LN2_HIGH
    return np.where(x == 1.0, 0.0, result)


def _reduce(x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Quadrant, and the remaining angle as a sum of two numbers, for angles from 0 to 2π."""
    high = _high(x)
    # Near multiples of π/2 one round of subtraction cancels too many digits.
    near = ((high & 0xFFFFF) == 0x921FB) | (high == 0x4012D97C)
    edges = np.array([0x3FE921FB, 0x4002D97C, 0x400F6A7A, 0x4015FDBC])
    count = np.searchsorted(edges, high, side="left").astype(np.float64)
    part, tail = _HALF_PI[0]
    z = x - count * part
    w = count * tail
    first = z - w
    second = (z - first) - w
    count_near, first_near, second_near = _reduce_near(x, high)
    none = high <= 0x3FE921FB
    n = np.where(none, 0, np.where(near, count_near, count)).astype(np.int64)
    first = np.where(none, x, np.where(near, first_near, first))
    second = np.where(none, 0.0, np.where(near, second_near, second))
    return n, first, second


def _reduce_near(x: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    count = (x * _TWO_OVER_PI + _ROUND) - _ROUND
    rest, w = x - count * _HALF_PI[0][0], count * _HALF_PI[0][1]
    first = rest - w
    for (part, tail), lost in zip(_HALF_PI[1:], (16, 49)):
        again = (high >> 20) - ((_high(first) >> 20) & 0x7FF) > lost
        before = rest
        small = count * part
        difference = before - small
        rest = np.where(again, difference, rest)
        w = np.where(again, count * tail - ((before - difference) - small), w)
        first = np.where(again, rest - w, first)
    return count, first, (rest - first) - w


def _kernel_sin(x: np.ndarray, tail: np.ndarray) -> np.ndarray:
    z = x * x
    w = z * z
    r = _SIN[1] + z * (_SIN[2] + z * _SIN[3]) + z * w * (_SIN[4] + z * _SIN[5])
    v = z * x
    return x - ((z * (0.5 * tail - v * r) - tail) - v * _SIN[0])


def _kernel_sin_without_tail(x: np.ndarray) -> np.ndarray:
    z = x * x
    w = z * z
    r = _SIN[1] + z * (_SIN[2] + z * _SIN[3]) + z * w * (_SIN[4] + z * _SIN[5])
    return x + z * x * (_SIN[0] + z * r)


def _kernel_cos(x: np.ndarray, tail: np.ndarray) -> np.ndarray:
    z = x * x
    w = z * z
    r = z * (_COS[0] + z * (_COS[1] + z * _COS[2])) + w * w * (_COS[3] + z * (_COS[4] + z * _COS[5]))
    half = 0.5 * z
    w = 1.0 - half
    return w + (((1.0 - w) - half) + (z * r - x * tail))


def sincos(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sine and cosine of angles from 0 to 2π."""
    n, first, second = _reduce(x)
    none = _high(x) <= 0x3FE921FB
    sine = np.where(none, np.where(x < 2.0**-26, x, _kernel_sin_without_tail(x)), _kernel_sin(first, second))
    cosine = _kernel_cos(first, second)
    sines = np.choose(n & 3, [sine, cosine, -sine, -cosine])
    cosines = np.choose(n & 3, [cosine, -sine, -cosine, sine])
    return sines, cosines
