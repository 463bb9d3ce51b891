#!/usr/bin/env python3
"""Runs bench_tokenizer and Hugging Face tokenizers on the same documents, one after the other, and prints both with their ratio.

    python bench/tokenizers.py --program build/bench/bench_tokenizer FOLDER [--glob '*.py'] [--megabytes 30]

Needs `pip install tokenizers`. Figures are MB per processor second (all threads of a process together), since the clock of a shared
machine says little; both programs also print the clock. The ids are compared as well.
"""
import argparse
import json
import os
import pathlib
import struct
import subprocess
import sys
import tempfile

PEER = """
import json, os, struct, sys, time
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
blob, documents, at = open(sys.argv[1], "rb").read(), [], 0
while at < len(blob):
    size = struct.unpack_from("<Q", blob, at)[0]
    documents.append(blob[at + 8 : at + 8 + size].decode())
    at += 8 + size
megabytes = sum(len(d.encode()) for d in documents) / 1e6
suffix = ", 1 thread" if os.environ["RAYON_NUM_THREADS"] == "1" else ", all threads"
special = ["<|endoftext|>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|fim_pad|>"]

def report(what, body):
    cpu, wall = time.process_time(), time.monotonic()
    result = body()
    cpu, wall = time.process_time() - cpu, time.monotonic() - wall
    print(json.dumps(dict(what=what + suffix, cpu_s=cpu, wall_s=wall, mb_per_core_s=megabytes / cpu, mb_per_s=megabytes / wall)), flush=True)
    return result

def train():
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(documents, trainers.BpeTrainer(vocab_size=8192, special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    return tokenizer

tokenizer = report("train", train)
ours = json.load(open(sys.argv[2]))["model"]
theirs = json.loads(tokenizer.to_str())["model"]
print(json.dumps(dict(same_merges=ours["merges"] == theirs["merges"] and ours["vocab"] == theirs["vocab"])), flush=True)
report("encode documents", lambda: tokenizer.encode_batch_fast(documents, add_special_tokens=False))
whole = "".join(documents)
report("encode one string", lambda: tokenizer.encode(whole, add_special_tokens=False))
"""


def lines(command, **environment):
    run = subprocess.run(command, env=dict(os.environ, **environment), stdout=subprocess.PIPE, text=True, check=True)
    return [json.loads(line) for line in run.stdout.splitlines()]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("--program", required=True)
    parser.add_argument("--glob", default="*.py")
    parser.add_argument("--megabytes", type=float, default=30)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        documents, tokenizer = f"{folder}/documents", f"{folder}/tokenizer.json"
        size = 0
        with open(documents, "wb") as out:
            for path in sorted(pathlib.Path(args.folder).rglob(args.glob)):
                text = path.read_bytes() if path.is_file() else b""
                try:
                    text.decode()
                except UnicodeDecodeError:
                    continue
                out.write(struct.pack("<Q", len(text)) + text)
                size += len(text)
                if size > args.megabytes * 1e6:
                    break
        print(f"{size / 1e6:.1f} MB; MB per processor second: smamba, tokenizers, ratio")
        ours = {line["what"]: line for line in lines([args.program, documents, tokenizer])}
        peer = [sys.executable, "-c", PEER, documents, tokenizer]
        theirs = lines(peer, RAYON_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false")
        theirs += lines(peer, RAYON_NUM_THREADS=str(os.cpu_count()), TOKENIZERS_PARALLELISM="true")
        print("same merges:", all(line["same_merges"] for line in theirs if "same_merges" in line))
        known = {line["what"]: line for line in theirs if "what" in line}
        for what, line in ours.items():
            other = known.get(what)
            ratio = f"{other['mb_per_core_s']:8.2f} {line['mb_per_core_s'] / other['mb_per_core_s']:7.1f}" if other else ""
            clock = f"   by the clock {line['mb_per_s']:.1f}" + (f" and {other['mb_per_s']:.1f}" if other else "")
            print(f"{what:32} {line['mb_per_core_s']:8.2f} {ratio}{clock}", flush=True)


if __name__ == "__main__":
    main()
