"""Makes card.png, the picture that links to the page show elsewhere: the upper part of docs/explore.png, 1200 by 630.

    python web/card.py
"""

from pathlib import Path

from PIL import Image

here = Path(__file__).parent
screen = Image.open(here.parent / "docs/explore.png").convert("RGB")
height = round(screen.width * 630 / 1200)
card = screen.crop((0, 0, screen.width, height)).resize((1200, 630), Image.Resampling.LANCZOS)
card.quantize(192, dither=Image.Dither.NONE).save(here / "card.png", optimize=True)
