"""A run as self-contained HTML for notebooks.

Images are data URIs and charts are inline SVG, so the output is readable even where scripts are blocked. The script
(``view.js``) draws the routing over the images and moves through the steps. Nothing is fetched.
"""

from __future__ import annotations

import base64
import html as escaping
import json
import uuid
from importlib.resources import files

import numpy as np

from . import charts
from .images import data_uri

#: Limits that keep notebooks small.
MOST_STEPS, MOST_IMAGES = 12, 6
#: Minimum size of an image on the page, in CSS pixels.
LEAST_SIDE = 168


def html(trace, frames: np.ndarray | None = None, settings: dict | None = None) -> str:
    """HTML of a trace. ``frames``: images after each step ``[steps, B, h, w, 3]``, uint8. ``settings``: shown in the header."""
    name = f"diffmoe-{uuid.uuid4().hex[:12]}"
    steps = _shown_steps(trace)
    images = min(MOST_IMAGES, frames.shape[1] if frames is not None else trace.images)
    data = _data(trace, frames, steps, images)
    parts = [f'<div class="diffmoe" id="{name}"><style>{_file("view.css")}</style>', _head(trace, frames, settings or {})]
    if images:
        parts.append(_stage(trace, frames, steps, images, data))
    if len(trace.blocks):
        curve, loads = charts.capacity(trace), charts.loads(trace)
        parts.append(f'<div class="dm-charts">{curve}{loads}</div><p class="dm-load-hint">&nbsp;</p>')
    # json.dumps escapes everything beyond ASCII; "<" could end the script.
    text = json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")
    parts.append(f"<script>({_file('view.js')})(document.getElementById({json.dumps(name)}), {text});</script></div>")
    return "".join(parts)


def page(body: str, title: str) -> str:
    """Wraps HTML in a stand-alone page."""
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{escaping.escape(title)}</title>'
    style = "<style>:root{color-scheme:light dark}body{margin:1.5rem;background:Canvas;color:CanvasText}</style>"
    return f'<!doctype html><html lang="en"><head>{head}{style}</head><body>{body}</body></html>\n'


def _file(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8").strip()


def _shown_steps(trace) -> list[int]:
    """Evenly spaced steps, including the last."""
    if trace.steps <= MOST_STEPS:
        return list(range(trace.steps))
    return sorted({round(i) for i in np.linspace(0, trace.steps - 1, MOST_STEPS)})


def _head(trace, frames, settings: dict) -> str:
    count = frames.shape[1] if frames is not None and not trace.images else trace.images
    facts = [f"{count} image{'s' * (count != 1)}", f"{trace.steps} steps"]
    facts += [escaping.escape(str(settings[key])) for key in ("scheduler",) if key in settings]
    facts += [f"guidance {settings['guidance_scale']:g}"] if "guidance_scale" in settings else []
    facts += [f"seed {settings['seed']}"] if "seed" in settings else []
    if trace.capacity is not None:
        facts.append(f'<span title="mean number of experts per token">C = {trace.capacity:.2f}</span>')
    return f'<p class="dm-head"><b>{escaping.escape(trace.model)}</b> · {" · ".join(facts)}</p>'


def _captions(trace, images: int) -> list[str]:
    capacity = trace.capacity_by_image()
    out = []
    for i in range(images):
        names = ", ".join(names[i] for names in trace.labels if i < len(names)) or f"image {i}"
        out.append(names + (f" · C {capacity[i]:.2f}" if i < len(capacity) else ""))
    return out


def _stage(trace, frames, steps: list[int], images: int, data: dict) -> str:
    """Controls and images."""
    out = ['<div class="dm-controls" hidden>']
    out.append('<button type="button" class="dm-play" aria-label="play the steps" title="play the steps">▶</button>')
    out.append(
        f'<label>Step <input type="range" class="dm-step" min="0" max="{len(steps) - 1}" value="{len(steps) - 1}"></label>'
    )
    out.append('<output class="dm-when"></output>')
    if len(trace.blocks):
        shows = '<option value="count">experts per token</option>' + '<option value="none">no overlay</option>' * (
            frames is not None
        )
        shows += "".join(f'<option value="{e}">expert {e}</option>' for e in range(trace.experts))
        blocks = "".join(f'<option value="{i}">block {block}</option>' for i, block in enumerate(trace.blocks))
        out.append(f'<label>Show <select class="dm-show">{shows}</select></label>')
        out.append(
            f'<label>in <select class="dm-block"><option value="-1">mean of all blocks</option>{blocks}</select></label>'
        )
        out.append('<span class="dm-legend"></span>')
    out.append('</div><div class="dm-images">')
    for i, caption in enumerate(_captions(trace, images)):
        image = f'<img alt="" src="{data_uri(frames[-1, i])}">' if frames is not None else ""
        out.append(f'<figure data-image="{i}" style="width:{data["size"][1] * data["scale"]}px">')
        out.append(f"{image}<figcaption>{escaping.escape(caption)}</figcaption></figure>")
    total = frames.shape[1] if frames is not None and not trace.images else trace.images
    more = f" The first {images} of {total} images are shown." if images < total else ""
    return "".join(out) + f'</div><p class="dm-hint" aria-live="polite">{more or "&nbsp;"}</p>'


def _data(trace, frames, steps: list[int], images: int) -> dict:
    """Data for the script."""
    height, width = frames.shape[2:4] if frames is not None else trace.grid
    kind = np.uint8 if trace.experts <= 8 else np.uint16 if trace.experts <= 16 else trace.masks.dtype
    masks = b""
    if len(trace.blocks):
        maps = [trace.maps(step)[:, :images] for step in steps]
        masks = np.stack(maps).astype(kind).astype(np.dtype(kind).newbyteorder("<")).tobytes()
    times = [float(trace.time[trace.step == step][0]) for step in steps]
    return {
        "steps": [[step, round(time, 4)] for step, time in zip(steps, times)],
        "last": trace.steps - 1,
        "blocks": [int(block) for block in trace.blocks],
        "experts": trace.experts,
        "grid": list(map(int, trace.grid)),
        "images": images,
        "size": [int(height), int(width)],
        "scale": max(1, -(-LEAST_SIDE // int(max(height, width)))),
        "bytes": np.dtype(kind).itemsize,
        "masks": base64.b64encode(masks).decode(),
        "sprite": data_uri(_sprite(frames, steps, images)) if frames is not None and images else None,
        "loads": charts.rounded_loads(trace),
        "ramp": charts.RAMP,
        "colours": charts.EXPERTS,
    }


def _sprite(frames: np.ndarray, steps: list[int], images: int) -> np.ndarray:
    """All frames in one image: steps are rows, images are columns. Noisy steps are reduced to three or four bits per
    channel, which halves their size."""
    kept = frames[steps, :images].astype(np.uint16)
    half = len(steps) // 2
    kept[:half] = (kept[:half] >> 5) * 255 // 7
    kept[half:-1] = (kept[half:-1] >> 4) * 17
    shown, count, height, width, _ = kept.shape
    return kept.astype(np.uint8).transpose(0, 2, 1, 3, 4).reshape(shown * height, count * width, 3)
