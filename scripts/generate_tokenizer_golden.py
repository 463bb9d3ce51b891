#!/usr/bin/env python3
"""Writes tests/data/golden/tokenizers.json: small tokenizers, texts and their ids, and one training run, all by Hugging Face tokenizers.

The C++ tests compare with this file and need no Python. Needs `pip install tokenizers`; run from the repository root:

    python scripts/generate_tokenizer_golden.py
"""
import copy
import json
import random

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

TARGET = "tests/data/golden/tokenizers.json"
SPECIAL = ["<|endoftext|>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|fim_pad|>"]
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
GPT4 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
DOCUMENTS = [
    "def add(a, b):\n    return a + b\n\nfor i in range(10):\n    print(add(i, 2 * i), end='\\n')\n" * 3,
    "It's what they'll say: we've seen 1234 of 56789 things, haven't we? I'd say so; you're right, I'm not.\r\n" * 2,
    "Zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich. Τάχιστη αλώπηξ; быстрая лиса, 快速的棕色狐狸。\n" * 2,
    "aaaa aaaaaaa aa aaaaaaaaaaaa\n\n\n\t\t\tabab ababab\t \t x\n        y\n            z\n",
    "naïve café résumé — “quotes”, 3.14159, £20, ½ + ¼, e\u0301 a\u030a, 😀😃😀😃\n" * 2,
]
PARTS = [
    " ", "  ", "\t", "\n", "\r\n", "\u00a0", "\u2028", "\u3000", "a", "ab", "add", "return", "Z", "é", "e\u0301", "ß", "中", "狐狸",
    "ᄀ", "ᅡ", "가", "1", "23", "4567", "²", "½", "Ⅷ", "٣", "'s", "'S", "'ſ", "'ll", "'LL", "'re", "'Ve", "'d", "'x", "!", "...", "—",
    "\u0308", "\u0345", "\u1dfa", "\u0611", "😀", "\U00011de0", "\U00016ff4", "\ufffd", "\x00", "\x1f", "\x7f", "\u0378", "\U0010ffff",
    "<|endoftext|>", "<|fim_prefix|>", "<|fim_", "@@", "[x]",
]


def train():
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=420, special_tokens=SPECIAL, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(DOCUMENTS, trainer)
    return json.loads(tokenizer.to_str())


def added(content, **flags):
    token = dict(content=content, single_word=False, lstrip=False, rstrip=False, normalized=False, special=False)
    return dict(token, **flags)


def variants(base):
    whole = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    split = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}

    def variant(steps=None, tokens=(), **model):
        out = copy.deepcopy(base)
        out["normalizer"] = model.pop("normalizer", None)
        if steps:
            out["pre_tokenizer"] = steps[0] if len(steps) == 1 else {"type": "Sequence", "pretokenizers": steps}
        merges = model.pop("drop_merge", None)
        if merges is not None:
            del out["model"]["merges"][merges]
        out["model"].update(model)
        for token in tokens:
            known = {**out["model"]["vocab"], **{t["content"]: t["id"] for t in out["added_tokens"]}}
            out["added_tokens"].append(dict(token, id=known.get(token["content"], max(known.values()) + 1)))
        out["added_tokens"].sort(key=lambda token: token["id"])
        return out

    def pattern(regex):
        return {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False}

    strip = [
        added("@@", lstrip=True),
        added("[x]", rstrip=True),
        added("ab", single_word=True),
        added("...", lstrip=True, rstrip=True, normalized=True),
        added("<|fim_prefix|>x", special=True),
    ]
    return {
        "gpt2": variant(),
        "gpt2_split": variant([pattern(GPT2), whole]),
        "gpt4": variant([pattern(GPT4), whole], ignore_merges=True, drop_merge=40),
        "qwen2": variant([pattern(GPT4.replace("{1,3}", "")), whole], normalizer={"type": "NFC"}),
        "neox": variant([split], [added(" " * n, normalized=True) for n in range(8, 1, -1)], normalizer={"type": "NFC"}),
        "starcoder": variant([{"type": "Digits", "individual_digits": True}, split]),
        "prefix": variant([{"type": "Digits", "individual_digits": False}, dict(split, add_prefix_space=True)]),
        "strip": variant([split], strip),
    }


def texts():
    random.seed(5)
    out = ["", "a", " ", "\n", "a" * 300, "ab" * 200 + "!" * 130, " " * 100 + "x" + "\n" * 50, DOCUMENTS[0][:90], DOCUMENTS[2][:90]]
    out += ["".join(random.choice(PARTS) for _ in range(30)) for _ in range(24)]
    out += ["".join(random.choice([" ", "  ", "\n", "\r", "\t", "a", "1", "'s", "!"]) for _ in range(30)) for _ in range(12)]
    return out


def main():
    base = train()
    golden = {"documents": DOCUMENTS, "vocab_size": 420, "texts": texts(), "tokenizers": {}}
    for name, variant in variants(base).items():
        tokenizer = Tokenizer.from_str(json.dumps(variant))
        with_special = [e.ids for e in tokenizer.encode_batch(golden["texts"], add_special_tokens=False)]
        tokenizer.encode_special_tokens = True
        plain = [e.ids for e in tokenizer.encode_batch(golden["texts"], add_special_tokens=False)]
        golden["tokenizers"][name] = {"tokenizer": variant, "ids": plain, "special_ids": with_special}
    with open(TARGET, "w") as out:
        json.dump(golden, out, ensure_ascii=True, separators=(",", ":"))
        out.write("\n")


if __name__ == "__main__":
    main()
