"""Makes the app's font from Ubuntu Light: without hints, with the letters of European languages and the signs that the app writes.

    pip install fonttools
    python crates/viewer/fonts/make.py Ubuntu-Light.ttf

`Ubuntu-Light.ttf` is version 0.83, as in the crate `epaint_default_fonts`. The result is a fifth of it, 32 kB in a page's download
instead of 171 kB. Its name is the one that the font's licence asks of a modified version.
"""

import sys
from pathlib import Path

from fontTools import subset

NAME = "Ubuntu Light derivative diffmoe"
FILE = Path(__file__).with_name("Ubuntu-Light-derivative-diffmoe.ttf")

LETTERS = [
    (0x0020, 0x007E),  # ASCII
    (0x00A0, 0x017F),  # Latin
    (0x0218, 0x021B),  # Romanian
    (0x02C6, 0x02DD),  # accents
    (0x0386, 0x03CE),  # Greek
    (0x0400, 0x045F),  # Cyrillic
    (0x0490, 0x0491),  # Ukrainian
]
SIGNS = [
    (0x2010, 0x2044),  # punctuation
    (0x2070, 0x209F),  # raised and lowered digits
    (0x20AC, 0x20AC),  # euro
    (0x2122, 0x2122),  # trademark
    (0x2190, 0x2199),  # arrows
    (0x2200, 0x22FF),  # mathematics
    (0x25A1, 0x25A1),
    (0x25CF, 0x25CF),
    (0x25FB, 0x25FB),  # egui draws it for a missing character
    (0xFFFD, 0xFFFD),
]


def main(source):
    options = subset.Options(hinting=False, layout_features=["kern"], notdef_outline=True, recalc_timestamp=False)
    font = subset.load_font(source, options)
    subsetter = subset.Subsetter(options)
    subsetter.populate(unicodes=[c for first, last in LETTERS + SIGNS for c in range(first, last + 1)])
    subsetter.subset(font)
    names = {1: NAME, 3: f"0.83;{NAME}", 4: NAME, 6: NAME.replace(" ", "-")}
    for record in font["name"].names:
        if record.nameID in names:
            record.string = names[record.nameID]
    subset.save_font(font, FILE, options)
    print(f"{FILE.name}: {FILE.stat().st_size} bytes, {len(font.getBestCmap())} characters")


if __name__ == "__main__":
    main(sys.argv[1])
