"""Prompts for images that have a name and a drawing style, and vocabularies made for them.

Each time an image enters a batch its prompt is composed anew: the name or an
everyday word for it (``synonyms.toml``), a phrase for the style, and a sentence
template.  Some prompts name only the subject, some only the style.  The ``UNSEEN``
templates are never trained on: they measure whether the model generalises to new
wordings."""

import json
import os
import re
from collections import Counter

import tokenizers
import torch
from tokenizers import Regex, models, normalizers, pre_tokenizers, processors, trainers

from ..tokenizer import Tokenizer
from ..words import CLIP
from . import text, toml

STYLE_PHRASES = {
    "noto": ["noto", "noto emoji", "google noto"],
    "blob": ["blob", "blob emoji", "blobmoji"],
    "twemoji": ["twemoji", "twitter", "twitter emoji"],
    "fluent3d": ["fluent 3d", "3d", "3d render"],
    "fluentcolor": ["fluent color", "fluent colour", "microsoft color"],
    "fluentflat": ["fluent flat", "flat fluent", "microsoft flat"],
    "emojitwo": ["emojitwo", "emoji two"],
    "fxemoji": ["fxemoji", "fx emoji", "firefox"],
}

# {s}: subject with its article, {n}: subject without, {t}: style.
SENTENCES = ["{s}, {t}", "{n}, {t}", "{t} {n}", "{s} in {t} style", "{t}: {n}", "{n} in the style of {t}",
             "a {t} picture of {s}", "an emoji of {s}, {t} style"]
# Free sentences combine these, with meaningless filler words (FREE, FILLER, invented).
OPENERS = ["", "", "draw", "make", "show me", "i want", "give me", "create", "paint", "i would love", "could i have",
           "let us see", "try", "now", "think of", "a picture of", "an image of", "an icon of", "a small drawing of"]
JOINED = ["{s} in {t}", "{s} in {t} style", "{s} drawn in {t}", "{s} with the {t} look", "{s} like {t}", "{s} like {t} does it",
          "{s} from {t}", "{s} by {t}", "{s} using {t}", "{s} as in {t}", "{s} made with {t}", "{s}, the {t} one",
          "the {t} {n}", "one {t} {n}", "a {t} style {n}", "{t} emoji of {s}", "{t} drawing of {s}", "{t} icon: {n}",
          "{n} / {t}", "{n} - {t}", "{n} [{t}]", "{t}, {n}", "{t} - {n}", "{n} {t}", "{t} of {s}", "{n} emoji {t}",
          "{t} style: {s}", "{n}; style {t}", "{n} = {t}", "{t} for {s}", "how {t} draws {s}", "what {t} makes of {s}"]
CLOSERS = ["", "", "", "", ".", "!", "?", "thanks", "for me", "now", "on white", "if you can", "as an icon", "and nothing else"]
FILLER = ("very nice small little big good great best new old clean simple pretty cute lovely bright plain tiny real whole "
          "just only really quite maybe also again today soon here there some any this that these my your our kind sort "
          "type form look page card sign shape thing print sticker logo sketch poster design art work of to at with on").split()
MARKS = "* | & + ~ # % _ ^ < > @ \"".split()
# Invented words consist of syllables: a beginning, a vowel, an end.
BEGINNINGS = ("b c d f g h j k l m n p qu r s t v w y z bl br ch cl cr dr fl fr gl gr pl pr sc sh sk sl sm sn sp st str sw "
              "th tr tw wh").split() + [""]
VOWELS = "a e i o u a e i o u ai ea ee ie io oa oo ou".split()
ENDS = "b d g k l m n p r s t x ck ld ll nd ng nt rd rk rt se sh ss st te th ve".split() + [""] * 12
FREE = 0.5  # share of free sentences among those that name both
SUBJECT_ONLY = ["{s}", "{n}"]
STYLE_ONLY = ["{t}", "{t} style"]
UNSEEN = ["{t} version of {s}", "show {s} the {t} way", "{n} ({t})", "please draw {s} as {t} would"]
RARE = 0.06  # share of prompts without a style, and again of prompts without a subject

SYNONYMS = toml.read(os.path.join(os.path.dirname(__file__), "synonyms.toml"))


def with_article(name):
    """ "a robot", "an alien"; plurals, proper names and sentences stay bare."""
    head = name.split()[-1] if " of " not in name else name.split(" of ")[0].split()[-1]
    is_plural = head.endswith("s") and not head.endswith("ss")
    if not re.match(r"[a-z]", name) or is_plural or ":" in name:
        return name
    return f"{'an' if re.match(r'(?!one|uni|euro)[aeiou]', name) else 'a'} {name}"


def wordings(name):
    return [name, *SYNONYMS.get(name, [])]


def fill(sentence, name, phrase):
    return sentence.format(s=with_article(name), n=name, t=phrase)


def invented(choose):
    """A meaningless word of one to three syllables.  Its pieces also occur in names, so the model learns that an unknown
    word is not a name."""
    return "".join(choose(BEGINNINGS) + choose(VOWELS) + choose(ENDS) for _ in range(choose([1, 1, 2, 2, 3])))


def parts_of_names(names):
    """Words that occur in one name only and are not names themselves, such as "milky": alone they do not ask for the
    subject of that name."""
    said = [{word for wording in wordings(name) for word in re.findall("[a-z]{3,}", wording)} for name in names]
    counts = Counter(word for words in said for word in words)
    whole = {wording for name in names for wording in wordings(name)}
    return sorted(word for word, count in counts.items() if count == 1 and word not in whole)


def meaningless(choose, parts=()):
    """A filler word, an invented one, one of ``parts`` or, rarely, a mark."""
    kind = choose("ffiiipp" if parts else "ffiii")
    if kind == "i":
        return invented(choose) if choose(range(6)) else choose(MARKS)
    return choose(FILLER if kind == "f" else parts)


def free_sentence(choose, parts=()):
    """A random combination of parts; ``choose`` picks one of a list.  Three of four name subject and style in one of many
    forms, half of them with meaningless words inserted; the others consist of the two and meaningless words.
    ``parts``: words of names that may be among them."""
    if choose([True, True, True, False]):
        words = [w for w in (choose(OPENERS), choose(JOINED), choose(CLOSERS)) if w]
        more = choose([0, 0, 1, 2])
    else:
        words = [choose(["{s}", "{n}"]), "{t}"][:: choose([1, -1])]
        more = choose([1, 2, 3])
    for _ in range(more):
        words.insert(choose(range(len(words) + 1)), meaningless(choose, parts))
    return " ".join(words).replace(" .", ".").replace(" !", "!").replace(" ?", "?")


def vocabulary_texts(names, styles):
    """Every name, synonym, style phrase and sentence, for training a tokenizer."""
    phrases = [p for s in styles for p in STYLE_PHRASES[s]]
    texts = [w for n in names for v in wordings(n) for w in (v, with_article(v))] + phrases
    free = [" ".join(OPENERS + CLOSERS + FILLER)] + [fill(s, names[0], phrases[0]) for s in JOINED]
    return texts + free + [fill(s, names[0], p) for s in SENTENCES + SUBJECT_ONLY + STYLE_ONLY for p in phrases]


def word_piece():
    """As in BERT: lower case, no accents, words and punctuation split, unknown
    words in subword pieces."""
    t = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]"))
    t.normalizer = normalizers.BertNormalizer(lowercase=True)
    t.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return t, trainers.WordPieceTrainer, {"initial_alphabet": list("abcdefghijklmnopqrstuvwxyz0123456789")}


def byte_pairs():
    """As in CLIP: lower case, byte-level, with an end-of-word suffix;
    only a final byte that never ended a training word is unknown."""
    t = tokenizers.Tokenizer(models.BPE(unk_token="[UNK]", end_of_word_suffix="</w>"))
    t.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()])
    t.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(CLIP), behavior="removed", invert=True),
        pre_tokenizers.ByteLevel(add_prefix_space=False)])
    return t, trainers.BpeTrainer, {"initial_alphabet": pre_tokenizers.ByteLevel.alphabet(), "end_of_word_suffix": "</w>"}


KINDS = {"wordpiece": ("WordPiece", word_piece), "bpe": ("BPE", byte_pairs)}


def train_tokenizer(texts, vocab_size, max_length, kind="wordpiece"):
    """The ``tokenizer.json`` of a vocabulary for ``texts``; [CLS] before and [SEP] after a prompt.  With
    "bpe" it has all 256 bytes, however small ``vocab_size`` is."""
    t, trainer, more = KINDS[kind][1]()
    t.train_from_iterator(texts, trainer(vocab_size=vocab_size, special_tokens=text.SPECIAL, show_progress=False, **more))
    t.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", text.CLS), ("[SEP]", text.SEP)])
    t.enable_truncation(max_length)
    return json.loads(t.to_str())


def check_kind(document, kind):
    """A run that starts from weights uses their tokenizer; reject another kind."""
    found = document["model"]["type"]
    if found != KINDS[kind][0]:
        raise ValueError(f'[text] tokenizer = "{kind}", but the weights come with a {found}')


class Reader:
    """Prompts to token ids as in drawing images: a ``tokenizer.json`` and the length of prompts.  ``special``: names of the
    special tokens, where the document has none."""

    def __init__(self, document, length, special=None):
        added = {token["content"] for token in document.get("added_tokens") or []}
        self.document, self.length, self.entries = document, length, len(added | set(document["model"]["vocab"]))
        self.tokenizer = Tokenizer(document, self.entries, special)
        if self.tokenizer.pad != text.PAD:
            raise ValueError(f"padding is token {self.tokenizer.pad}; the trainer needs {text.PAD}")

    def encode(self, prompts):
        """int64 [N, length], padded.  Names of special tokens, such as [SEP], are treated as ordinary text."""
        return torch.tensor([self.tokenizer.encode(p, self.length)[0] for p in prompts])


class Prompter:
    """Draws prompts for (subject, style) pairs."""

    def __init__(self, subjects, styles, reader):
        self.subjects, self.styles, self.reader = subjects, styles, reader
        self.parts = parts_of_names(subjects)

    @property
    def null(self):
        return text.null_tokens(1, self.reader.length)[0]

    def sentence(self, subject, style, generator=None):
        return self.said(subject, style, generator)[0]

    def said(self, subject, style, generator=None):
        """(sentence, its subject or None, its style or None)."""
        def choose(options):
            return options[int(torch.randint(0, len(options), (), generator=generator))]

        u = float(torch.rand((), generator=generator))
        kinds = SUBJECT_ONLY if u < RARE else STYLE_ONLY if u < 2 * RARE else SENTENCES
        free = kinds is SENTENCES and float(torch.rand((), generator=generator)) < FREE
        name = choose(wordings(self.subjects[subject]))
        sentence = free_sentence(choose, self.parts) if free else choose(kinds)
        prompt = fill(sentence, name, choose(STYLE_PHRASES[self.styles[style]]))
        return prompt, None if kinds is STYLE_ONLY else subject, None if kinds is SUBJECT_ONLY else style

    def encode(self, prompts):
        return self.reader.encode(prompts)

    def draw(self, subjects, styles, generator=None):
        """Token ids [N, L] for index tensors [N]."""
        pairs = zip(subjects.tolist(), styles.tolist())
        return self.encode([self.sentence(*p, generator) for p in pairs])


def expand(requests, styles):
    """Prompts; a * in a request stands for every style, in its first phrase."""
    return [r.replace("*", p) for r in requests
            for p in ([STYLE_PHRASES[s][0] for s in styles] if "*" in r else [""])]


def section(run, reader):
    """The section of a description on the text encoder of a run; None without a reader."""
    if reader is None:
        return None
    t = run.text
    return {"vocab_size": reader.entries, "max_length": t.max_length, "hidden_size": t.hidden_size, "depth": t.depth,
            "num_heads": t.num_heads, "mlp_ratio": t.mlp_ratio, "tokenizer": reader.document}


def described(run, reader, dataset):
    """As :func:`section`, with example prompts and the known subjects and styles."""
    subjects, styles = (l.values for l in dataset.labels)
    phrases = [STYLE_PHRASES[s][0] for s in styles]
    known = [g for g in run.sample.grid if "*" in g] or [f"{s}, *" for s in subjects[: len(styles)]]
    examples = [g.replace("*", phrases[i % len(phrases)]) for i, g in enumerate(known)]
    sizes = section(run, reader)
    tokenizer = sizes.pop("tokenizer")
    return {**sizes, "examples": examples, "subjects": subjects, "styles": dict(zip(styles, phrases)), "tokenizer": tokenizer}
