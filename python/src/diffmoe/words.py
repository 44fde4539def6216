"""Pre-tokenization as in BERT, GPT-2 and CLIP, and the byte-to-letter map of byte-level vocabularies.

    GPT-2  's|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+
    CLIP   's|'t|'re|'ve|'m|'ll|'d|[\\p{L}]+|[\\p{N}]|[^\\s\\p{L}\\p{N}]+         text between matches is dropped

Python's regular expressions have no Unicode classes, so both are implemented by hand.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable

#: CLIP's expression as written in its tokenizer.json.
CLIP = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
#: English contractions, which are separate words.
ENDINGS = ("'s", "'t", "'re", "'ve", "'m", "'ll", "'d")
#: Unicode White_Space; ``str.isspace`` includes four more control characters.
SPACES = frozenset("\t\n\x0b\x0c\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000") | {chr(c) for c in range(0x2000, 0x200B)}
#: Unicode blocks whose characters BERT treats as separate words.
CHINESE = (
    (0x4E00, 0x9FFF),
    (0x3400, 0x4DBF),
    (0x20000, 0x2A6DF),
    (0x2A700, 0x2B73F),
    (0x2B740, 0x2B81F),
    (0x2B920, 0x2CEAF),
    (0xF900, 0xFAFF),
    (0x2F800, 0x2FA1F),
)


def lower(text: str) -> str:
    """Lower case, character by character, without regard to context."""
    return "".join(letter.lower() for letter in text)


def single_spaces(text: str) -> str:
    """Replaces each run of white space by one space."""
    out: list[str] = []
    for letter in text:
        if letter not in SPACES:
            out.append(letter)
        elif not out or out[-1] != " ":
            out.append(" ")
    return "".join(out)


def bert_clean(text: str, options: dict) -> str:
    """BERT's normalizer with the given options."""
    lowercase = options.get("lowercase", True)
    if options.get("clean_text", True):
        text = "".join(" " if c in SPACES else c for c in text if not _is_removed(c))
    if options.get("handle_chinese_chars", True):
        text = "".join(f" {c} " if any(a <= ord(c) <= b for a, b in CHINESE) else c for c in text)
    accents = options.get("strip_accents")
    if lowercase if accents is None else accents:
        text = "".join(c for c in unicodedata.normalize("NFD", text) if unicodedata.category(c) != "Mn")
    return lower(text) if lowercase else text


def _is_removed(letter: str) -> bool:
    return letter in "\0\ufffd" or (letter not in "\t\n\r" and unicodedata.category(letter)[0] == "C")


def bert(text: str) -> list[str]:
    """Words, with every punctuation character separate; spaces are dropped."""
    out: list[str] = []
    grows = False
    for letter in text:
        is_sign = unicodedata.category(letter)[0] == "P" or (letter.isascii() and letter.isprintable() and not letter.isalnum())
        if letter in SPACES:
            grows = False
        elif is_sign or not grows:
            out.append(letter)
            grows = not is_sign
        else:
            out[-1] += letter
    return out


def _class(letter: str) -> str:
    if letter in SPACES:
        return "space"
    return {"L": "letter", "N": "number"}.get(unicodedata.category(letter)[0], "other")


def _run(text: str, start: int) -> int:
    """End of the run of characters of the same class as the one at ``start``."""
    wanted, end = _class(text[start]), start
    while end < len(text) and _class(text[end]) == wanted:
        end += 1
    return end


def _ending(text: str, start: int) -> int | None:
    return next((start + len(e) for e in ENDINGS if text.startswith(e, start)), None)


def _cut(text: str, end_of: Callable[[str, int], int]) -> list[str]:
    out, start = [], 0
    while start < len(text):
        end = end_of(text, start)
        out.append(text[start:end])
        start = end
    return out


def gpt2(text: str) -> list[str]:
    """GPT-2's rule: a space belongs to the following word; longer white space is a word without its last character."""

    def end_of(text, start):
        ending = _ending(text, start)
        if ending is not None:
            return ending
        after = start + (text[start] == " ")
        if after < len(text) and _class(text[after]) != "space":
            return _run(text, after)
        # White space other than a single space before a word.
        end = _run(text, start)
        return end if end == len(text) or end == start + 1 else end - 1

    return _cut(text, end_of)


def clip(text: str) -> list[str]:
    """CLIP's rule: digits are separate words, spaces are dropped."""

    def end_of(text, start):
        ending = _ending(text, start)
        if ending is not None:
            return ending
        return start + 1 if _class(text[start]) == "number" else _run(text, start)

    return [word for word in _cut(text, end_of) if word[0] not in SPACES]


def _letters() -> dict[int, str]:
    """A printable character for every byte: its own if printable, else one from 256 on."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in plain]
    return {**{byte: chr(byte) for byte in plain}, **{byte: chr(256 + i) for i, byte in enumerate(others)}}


LETTERS = _letters()


def as_letters(word: str) -> str:
    """A word with every byte of its UTF-8 form mapped to a printable character."""
    return "".join(LETTERS[byte] for byte in word.encode("utf-8", "replace"))
