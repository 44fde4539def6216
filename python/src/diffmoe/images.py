"""Samples to pixels, and a small PNG encoder."""

from __future__ import annotations

import base64
import struct
import zlib

import numpy as np


def to_bytes(samples: np.ndarray) -> np.ndarray:
    """``[B, 3, h, w]`` in [-1, 1] to ``[B, h, w, 3]`` uint8."""
    # Rounds half up, as the Rust program does for positive numbers.
    values = np.floor(np.clip(samples * np.float32(127.5) + np.float32(127.5), 0, 255) + np.float32(0.5))
    return values.astype(np.uint8).transpose(0, 2, 3, 1)


def preview(samples: np.ndarray, makes_images: bool) -> np.ndarray:
    """Displayable pixels: the samples themselves, or the first three channels of latents, normalised."""
    if not makes_images and len(samples):
        channels = samples[:, [0, min(1, samples.shape[1] - 1), min(2, samples.shape[1] - 1)]]
        deviation = channels.std((0, 2, 3), keepdims=True)
        samples = (channels - channels.mean((0, 2, 3), keepdims=True)) / (3 * np.maximum(deviation, 1e-6))
    return to_bytes(samples[:, :3])


def to_pil(images: np.ndarray) -> list:
    """Pillow images, or the arrays if Pillow is not installed."""
    try:
        from PIL import Image
    except ImportError:
        return list(images)
    return [Image.fromarray(np.ascontiguousarray(image)) for image in images]


def png(pixels: np.ndarray) -> bytes:
    """PNG file of ``[h, w, 3]`` or ``[h, w, 4]`` uint8."""
    height, width, channels = pixels.shape
    # Filter type 1, the difference from the pixel to the left, except in rows of few values, which it would mix.
    rows = pixels.copy()
    rows[:, 1:] -= pixels[:, :-1]
    kinds = np.array([len(np.unique(row)) > 32 for row in pixels], np.uint8)
    rows = np.where(kinds[:, None, None], rows, pixels)
    lines = np.concatenate([kinds[:, None], rows.reshape(height, -1)], axis=1)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, {3: 2, 4: 6}[channels], 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(lines.tobytes(), 9)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def data_uri(pixels: np.ndarray) -> str:
    """PNG as a data URI."""
    return "data:image/png;base64," + base64.b64encode(png(pixels)).decode()
