"""Tokenizers: WordPiece and byte-pair encoding (BPE), from the ``tokenizer.json`` in a model file.

docs/models-text.md lists the supported components. Others are rejected by name, because ignoring one would give different
token ids than in training.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable

from . import words
from .errors import ModelError


class Tokenizer:
    """Splits prompts into token ids."""

    def __init__(self, document: dict, vocabulary: int, special: dict | None = None):
        """``vocabulary`` is the number of rows of the embedding table. ``special`` names the ``begin``, ``end`` and ``pad``
        entries if the document does not."""
        try:
            self._clean = [_cleaning(part) for part in _stages(document.get("normalizer"), "normalizers")]
            self._words = _splitting(_stages(document.get("pre_tokenizer"), "pretokenizers"))
            self._split, entries = _pieces(document["model"])
            added = document.get("added_tokens") or []
            for token in added:
                if not token.get("special"):
                    _refuse("added token", f"{token['content']!r} (not special)", "special ones are")
            entries = {**entries, **{token["content"]: token["id"] for token in added}}
            self.begin, self.end, self.pad = _ends(document, special or {}, entries)
        except (KeyError, TypeError, IndexError, AttributeError) as error:
            raise ModelError(f"the tokenizer cannot be read ({error!r}); expected the contents of a tokenizer.json") from None
        largest = max(*entries.values(), self.begin, self.end, self.pad)
        if largest >= vocabulary:
            raise ModelError(f"the tokenizer has entry {largest}, but the text encoder only {vocabulary} entries")

    def encode(self, prompt: str, length: int) -> tuple[list[int], int]:
        """Exactly ``length`` token ids, and how many of them are not padding. Prompts that are too long are truncated."""
        pieces = self._pieces(prompt)[: length - 2]
        ids = [self.begin, *pieces, self.end]
        return ids + [self.pad] * (length - len(ids)), len(ids)

    def is_cut(self, prompt: str, length: int) -> bool:
        """Whether a prompt is too long and would be truncated."""
        return len(self._pieces(prompt)) > length - 2

    def _pieces(self, prompt: str) -> list[int]:
        for part in self._clean:
            prompt = part(prompt)
        return [number for word in self._words(prompt) for number in self._split(word)]


def _refuse(part: str, found: str, supported: str):
    raise ModelError(f"the tokenizer's {part} is {found}, which is not supported; {supported}")


def _kind(part) -> str:
    return "none" if part is None else part.get("type") or "of no type"


def _stages(part, parts: str) -> list[dict]:
    """Flattens a ``Sequence``."""
    if part is None:
        return []
    if part.get("type") == "Sequence":
        return [stage for one in part[parts] for stage in _stages(one, parts)]
    return [part]


def _cleaning(part: dict) -> Callable[[str], str]:
    kind = _kind(part)
    if kind == "BertNormalizer":
        return lambda text: words.bert_clean(text, part)
    if kind == "NFC":
        return lambda text: unicodedata.normalize("NFC", text)
    if kind == "Lowercase":
        return words.lower
    if kind == "Replace":
        if part["pattern"].get("Regex") == r"\s+" and part["content"] == " ":
            return words.single_spaces
        _refuse("normalizer", f"a Replace of {part['pattern']}", r"a Replace may only turn \s+ into one space")
    return _refuse("normalizer", kind, "BertNormalizer, NFC, Lowercase and a Replace of spaces are")


def _splitting(stages: list[dict]) -> Callable[[str], list[str]]:
    supported = "BertPreTokenizer, ByteLevel with its own expression, and CLIP's Split before a ByteLevel are"
    kinds = [_kind(part) for part in stages]
    if kinds == ["BertPreTokenizer"]:
        return words.bert
    if kinds == ["ByteLevel"] and stages[0].get("use_regex", True):
        prefix = stages[0].get("add_prefix_space", True)

        def split(text):
            text = f" {text}" if prefix and text and not text.startswith(" ") else text
            return [words.as_letters(word) for word in words.gpt2(text)]

        return split
    if kinds == ["Split", "ByteLevel"]:
        cut, bytes_ = stages
        is_clip = cut["pattern"].get("Regex") == words.CLIP and cut.get("behavior") == "Removed" and cut.get("invert")
        if is_clip and not bytes_.get("add_prefix_space", True):
            return lambda text: [words.as_letters(word) for word in words.clip(text)]
        return _refuse("pre_tokenizer", f"a Split by {cut['pattern']}", supported)
    return _refuse("pre_tokenizer", ", then ".join(kinds) or "none", supported)


def _known(entries: dict, entry: str, who: str) -> int:
    if entry not in entries:
        raise ModelError(f"the tokenizer has no entry {entry!r}, which {who}")
    return entries[entry]


def _pieces(model: dict) -> tuple[Callable[[str], list[int]], dict[str, int]]:
    """A function that splits a word into ids, and the vocabulary."""
    vocab = model["vocab"]
    # Older files do not name the type.
    if model.get("type") == "BPE" or ("type" not in model and "merges" in model):
        return _bpe(model, vocab), vocab
    if model.get("type") != "WordPiece":
        _refuse("model", _kind(model), "WordPiece and BPE are")
    unknown = _known(vocab, model.get("unk_token", "[UNK]"), "unk_token names")
    prefix, longest = model.get("continuing_subword_prefix", "##"), model.get("max_input_chars_per_word", 100)

    def split(word):
        if len(word) > longest:
            return [unknown]
        ids, start = [], 0
        while start < len(word):
            for end in range(len(word), start, -1):
                piece = (prefix if start else "") + word[start:end]
                if piece in vocab:
                    ids.append(vocab[piece])
                    start = end
                    break
            else:
                return [unknown]
        return ids

    return split, vocab


def _bpe(model: dict, vocab: dict[str, int]) -> Callable[[str], list[int]]:
    for option in ("dropout", "byte_fallback", "ignore_merges"):
        if model.get(option):
            _refuse("model", f"a BPE with {option}", "a plain BPE is")
    prefix = model.get("continuing_subword_prefix") or ""
    suffix = model.get("end_of_word_suffix") or ""
    unknown = model.get("unk_token") or None
    unknown = None if unknown is None else _known(vocab, unknown, "unk_token names")
    fuse = model.get("fuse_unk", False)
    ranks = {}
    for rank, merge in enumerate(model["merges"]):
        first, second = merge.split(" ", 1) if isinstance(merge, str) else merge
        if not second.startswith(prefix):
            raise ModelError(f"the tokenizer's merge {first!r} {second!r} is not a pair of entries that can be joined")
        whole = first + second[len(prefix) :]
        pair = tuple(_known(vocab, entry, "a merge needs") for entry in (first, second))
        ranks[pair] = (rank, _known(vocab, whole, "a merge needs"))

    def letters(word):
        ids, after_unknown = [], False
        for i, letter in enumerate(word):
            entry = (prefix if i else "") + letter + (suffix if i + 1 == len(word) else "")
            number = vocab.get(entry, unknown)
            is_unknown = entry not in vocab
            if number is not None and not (fuse and is_unknown and after_unknown):
                ids.append(number)
            after_unknown = is_unknown
        return ids

    def split(word):
        ids = letters(word)
        while True:
            pairs = [(ranks[pair], i) for i, pair in enumerate(zip(ids, ids[1:])) if pair in ranks]
            if not pairs:
                return ids
            (_, whole), i = min(pairs)
            ids[i : i + 2] = [whole]

    return split


def _ends(document: dict, special: dict, entries: dict[str, int]) -> tuple[int, int, int]:
    """Ids of begin, end and padding: from ``special``, else from the document, else BERT's names."""
    unknown = set(special) - {"begin", "end", "pad"}
    if unknown:
        raise ModelError(f"special_tokens has {sorted(unknown)}; expected begin, end and pad")
    named = {key: _known(entries, name, "special_tokens names") for key, name in special.items() if name}
    first, last = _post_processor(document.get("post_processor")) or (entries.get("[CLS]"), entries.get("[SEP]"))
    begin, end = named.get("begin", first), named.get("end", last)
    if begin is None or end is None:
        raise ModelError(
            "the tokenizer does not define begin and end tokens; name them in the text section, as in "
            '"special_tokens": {"begin": "[CLS]", "end": "[SEP]"}'
        )
    padding = (document.get("padding") or {}).get("pad_id")
    usual = next((entries[name] for name in ("[PAD]", "<pad>") if name in entries), end)
    return begin, end, named.get("pad", usual if padding is None else padding)


def _post_processor(part) -> tuple[int, int] | None:
    """Ids that the post-processor puts before and after a text, if any."""
    supported = "BertProcessing, RobertaProcessing and a TemplateProcessing with one token before and one after the text are"
    # A ByteLevel post-processor only changes offsets, which are not used here.
    parts = [one for one in _stages(part, "processors") if _kind(one) != "ByteLevel"]
    if len(parts) > 1:
        _refuse("post_processor", "a list of several", supported)
    if not parts:
        return None
    part, kind = parts[0], _kind(parts[0])
    if kind in ("BertProcessing", "RobertaProcessing"):
        return part["cls"][1], part["sep"][1]
    if kind != "TemplateProcessing":
        _refuse("post_processor", kind, supported)
    single = part["single"]
    if len(single) != 3 or single[1].get("Sequence", {}).get("id") != "A":
        _refuse("post_processor", "another TemplateProcessing", supported)
    ids = [part["special_tokens"][single[i]["SpecialToken"]["id"]]["ids"] for i in (0, 2)]
    if any(len(numbers) != 1 for numbers in ids):
        _refuse("post_processor", "a TemplateProcessing without two numbers", supported)
    return ids[0][0], ids[1][0]
