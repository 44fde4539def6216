"""Token ids recorded with the ``tokenizers`` package, for unusual prompts and five kinds of tokenizer."""

import copy
import json

import pytest
from conftest import FIXTURES

from diffmoe import ModelError
from diffmoe.tokenizer import Tokenizer

CASES = {case["name"]: case for case in json.loads((FIXTURES / "tokenizers.json").read_text(encoding="utf-8"))}


def tokenizer(case):
    return Tokenizer(case["tokenizer"], case["vocabulary"], case["special_tokens"])


@pytest.mark.parametrize("name", CASES)
def test_recorded_numbers(name):
    case = CASES[name]
    one = tokenizer(case)
    assert len(case["prompts"]) == 20
    for prompt in case["prompts"]:
        ids, count = one.encode(prompt["text"], len(prompt["ids"]))
        assert ids == prompt["ids"], prompt["text"]
        assert count == min(prompt["length"], len(ids))
        assert one.is_cut(prompt["text"], len(ids)) == (prompt["length"] > len(ids))


def test_special_tokens_take_precedence():
    case = copy.deepcopy(CASES["bert"])
    case["special_tokens"] = {"end": "[UNK]"}
    ids = tokenizer(case).encode("", 3)[0]
    assert ids[1] == case["tokenizer"]["model"]["vocab"]["[UNK]"] != CASES["bert"]["prompts"][0]["ids"][1]


@pytest.mark.parametrize(
    ("name", "change", "reason"),
    [
        ("bert", lambda t: t["model"].update(type="Unigram"), "model is Unigram, which is not supported"),
        ("bert", lambda t: t.update(normalizer={"type": "Strip"}), "normalizer is Strip"),
        ("bert", lambda t: t.update(pre_tokenizer=None), "pre_tokenizer is none"),
        ("bert", lambda t: t["model"].update(unk_token="[X]"), "no entry '[X]', which unk_token names"),
        ("bert", lambda t: t["model"]["vocab"].update(zebra=10**6), "has entry 1000000"),
        ("bert", lambda t: t.pop("model"), "cannot be read"),
        ("gpt2", lambda t: t["model"].update(byte_fallback=True), "a BPE with byte_fallback"),
        ("gpt2", lambda t: t["model"]["merges"].append(["zz", "qq"]), "which a merge needs"),
        ("clip", lambda t: t["added_tokens"].append({"id": 1, "content": "fox", "special": False}), "'fox' (not special)"),
        ("clip", lambda t: t["pre_tokenizer"]["pretokenizers"][0].update(invert=False), "a Split by"),
    ],
)
def test_unsupported_components_are_refused_by_name(name, change, reason):
    case = copy.deepcopy(CASES[name])
    change(case["tokenizer"])
    with pytest.raises(ModelError) as caught:
        tokenizer(case)
    assert reason in str(caught.value)


def test_begin_and_end_tokens_are_required():
    case = copy.deepcopy(CASES["gpt2"])
    with pytest.raises(ModelError, match="does not define begin and end tokens"):
        Tokenizer(case["tokenizer"], case["vocabulary"])
