#!/usr/bin/env python3
"""Writes tests/data/golden/sentencepiece.model and .json: a small model and the ids that the SentencePiece library gives.

Needs `pip install sentencepiece`; run from the repository root, after scripts/generate_tokenizer_golden.py:

    python scripts/generate_sentencepiece_golden.py
"""
import json
import tempfile

import sentencepiece

FOLDER = "tests/data/golden"


def main():
    with open(f"{FOLDER}/tokenizers.json") as f:
        golden = json.load(f)
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as corpus:
        corpus.write("\n".join(line for document in golden["documents"] for line in document.splitlines()))
        corpus.flush()
        with open(f"{FOLDER}/sentencepiece.model", "wb") as model:
            sentencepiece.SentencePieceTrainer.train(
                input=corpus.name,
                model_writer=model,
                vocab_size=400,
                model_type="bpe",
                byte_fallback=True,
                normalization_rule_name="identity",
                remove_extra_whitespaces=False,
                user_defined_symbols=["<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>"],
                hard_vocab_limit=False,
                minloglevel=2,
            )
    processor = sentencepiece.SentencePieceProcessor(model_file=f"{FOLDER}/sentencepiece.model")
    texts = [t for t in golden["texts"] if "\x00" not in t]
    with open(f"{FOLDER}/sentencepiece.json", "w") as out:
        json.dump({"texts": texts, "ids": [processor.encode(t) for t in texts]}, out, separators=(",", ":"))
        out.write("\n")


if __name__ == "__main__":
    main()
