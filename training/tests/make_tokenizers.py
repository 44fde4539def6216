"""Record what the ``tokenizers`` package makes of odd prompts, for the other implementation:

    python tests/make_tokenizers.py ../tests/fixtures/tokenizers.json

Four small files in the forms of GPT-2, RoBERTa, CLIP and BERT, their vocabularies
made from the sentences below.  Names of special entries in a prompt are text."""

import json
import os
import sys

from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

import checkout  # noqa: F401 - finds the package
from diffmoe.words import CLIP

CORPUS = ["a robot in fluent style", "the robot's picture of a red fox", "it's the style that we've drawn, isn't it?",
          "an emoji of the sun: noto style", "in the style of the blob, 2024", "piñata and crème brûlée", "  two  spaces",
          "they'll draw 3 foxes and 12 robots!", "日本語 🦊 emoji"] * 3
PROMPTS = ["", " ", " \t\n ", "a", "A Robot, fluent 3D", "the robot's picture", "it's we'll they've I'd 'tis don'T",
           "naïve piñata CRÈME e\u0301clair Å ﬁ ß İ Σς", "🦊 a fox 👩\u200d🚀 ❤\ufe0f!!", "12345 3.14 ½ ² Ⅷ ٣",
           "two  spaces   three\tand\n\nlines ", "donaudampfschifffahrtsgesellschaft" * 3, "日本語の絵 한국어 हिन्दी العربية",
           "\u0000\u0001 \u200b\ufffd\ufeff\u00ad", "<|endoftext|> [SEP] <s></s><pad> [UNK]", "x\u00a0y\u3000z\u2028w\u0085v",
           "...---''' s't 're", "\U0001f9ff\U000e0041\U0010ffff", "the style of " * 20, "a robot in fluent style of it"]
LENGTH = 24


def bpe(size, special, unknown=None, alphabet=True, **more):
    t = Tokenizer(models.BPE(unk_token=unknown, **more))
    letters = pre_tokenizers.ByteLevel.alphabet() if alphabet else []
    trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=special, show_progress=False, initial_alphabet=letters,
                                  **more)
    return t, trainer


def gpt2():
    t, trainer = bpe(420, ["<|endoftext|>"])
    t.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    t.train_from_iterator(CORPUS, trainer)
    t.post_processor = processors.ByteLevel(trim_offsets=False)
    return t


def roberta():
    """Only the bytes of the sentences are known; others are dropped or unknown."""
    t, trainer = bpe(220, ["<s>", "<pad>", "</s>", "<unk>", "<mask>"], "<unk>", alphabet=False)
    t.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    t.train_from_iterator(CORPUS, trainer)
    t.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    t.add_special_tokens([AddedToken("<beyond>")])  # an entry that the model's vocabulary does not have
    return t


def clip():
    t, trainer = bpe(440, ["<|startoftext|>", "<|endoftext|>"], "<|endoftext|>", end_of_word_suffix="</w>")
    t.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()])
    t.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(CLIP), behavior="removed", invert=True),
        pre_tokenizers.ByteLevel(add_prefix_space=False)])
    t.train_from_iterator(CORPUS, trainer)
    t.post_processor = processors.RobertaProcessing(("<|endoftext|>", 1), ("<|startoftext|>", 0), add_prefix_space=False)
    return t


def continued():
    """Parts of a word marked, as in WordPiece; unknown letters next to each other are one."""
    t, trainer = bpe(200, ["[BEGIN]", "[END]", "[UNK]"], "[UNK]", alphabet=False, continuing_subword_prefix="##")
    t.model.fuse_unk = True
    t.normalizer = normalizers.BertNormalizer(lowercase=True)
    t.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    t.train_from_iterator(CORPUS, trainer)
    return t


def bert():
    t = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    t.normalizer = normalizers.BertNormalizer(lowercase=True)
    t.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    unused = [f"[unused{i}]" for i in range(9)]
    t.train_from_iterator(CORPUS, trainers.WordPieceTrainer(
        vocab_size=200, special_tokens=["[PAD]", *unused, "[UNK]", "[CLS]", "[SEP]"], show_progress=False))
    t.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 11), ("[SEP]", 12)])
    return t


def record(name, t, special=None, pad=None):
    """The file, and what it makes of every prompt; ``special`` names the ends that the file does not."""
    file = json.loads(t.to_str())
    if special:
        ends = [(special[k], t.token_to_id(special[k])) for k in ("begin", "end")]
        t.post_processor = processors.TemplateProcessing(
            single=f"{ends[0][0]} $A {ends[1][0]}", special_tokens=list(dict(ends).items()))
    t.encode_special_tokens = True
    lengths = [len(e.ids) for e in t.encode_batch(PROMPTS)]
    t.enable_truncation(LENGTH)
    t.enable_padding(length=LENGTH, pad_id=t.token_to_id(pad))
    ids = [e.ids for e in t.encode_batch(PROMPTS)]
    return {"name": name, "vocabulary": t.get_vocab_size(), "special_tokens": special or {}, "tokenizer": file,
            "prompts": [{"text": p, "length": n, "ids": i} for p, n, i in zip(PROMPTS, lengths, ids)]}


def main(path):
    cases = [record("gpt2", gpt2(), {"begin": "<|endoftext|>", "end": "<|endoftext|>"}, "<|endoftext|>"),
             record("roberta", roberta(), pad="<pad>"), record("clip", clip(), pad="<|endoftext|>"),
             record("continued", continued(), {"begin": "[BEGIN]", "end": "[END]", "pad": "[UNK]"}, "[UNK]"),
             record("bert", bert(), pad="[PAD]")]
    with open(path, "w", encoding="utf-8") as f:
        json.dump(cases, f, ensure_ascii=True, separators=(",", ":"))
        f.write("\n")
    for c in cases:
        print(c["name"], c["vocabulary"], [p["length"] for p in c["prompts"]])


if __name__ == "__main__":
    main(sys.argv[1])
