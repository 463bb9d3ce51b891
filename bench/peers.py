#!/usr/bin/env python3
"""Runs smamba and other implementations of Mamba that are installed here in turns, and prints the ratios.

Nothing is fetched or built: a peer takes part when its program or package is given (--help). All run the same shapes on random weights:
  decode   the 130M shape (d_model 768, 24 layers, vocabulary 50280), batch 1
  prefill  the same, a prompt of 512 tokens
  train    d_model 512, 8 layers, gated MLP of 2048, vocabulary 50280: 2 sequences of 512 tokens, forward, backward, AdamW
Each round runs every peer once, one after the other; figures are tokens a second, medians over the rounds; a ratio is the median of the
rounds' own ratios, since on a shared machine only neighbours can be compared.
"""

import argparse
import array
import json
import os
import random
import re
import statistics
import struct
import subprocess
import sys
import tempfile

D_MODEL, LAYERS, VOCAB, D_INNER, RANK, STATE, CONV = 768, 24, 50280, 1536, 48, 16, 4

TRANSFORMERS = """
import sys, time, torch
from transformers import MambaConfig, MambaForCausalLM
what, dtype, threads = sys.argv[1], getattr(torch, sys.argv[2]), int(sys.argv[3])
torch.set_num_threads(threads)
torch.manual_seed(0)
model = MambaForCausalLM(MambaConfig(hidden_size=768, num_hidden_layers=24, vocab_size=50280)).to(dtype).eval()
with torch.no_grad():
    if what == "prefill":
        ids = torch.randint(50280, (1, 512))
        model(ids)
        t = time.time(); model(ids); print(512 / (time.time() - t))
    else:
        ids = torch.randint(50280, (1, 4))
        run = lambda n: model.generate(ids, max_new_tokens=n, min_new_tokens=n, do_sample=False, pad_token_id=0)
        run(2)
        t = time.time(); run(4); short = time.time() - t
        t = time.time(); run(20); print(16 / (time.time() - t - short))
"""

MAMBAPY = """
import sys, time, torch
from mambapy.mamba import MambaBlock, MambaConfig, RMSNorm
torch.set_num_threads(int(sys.argv[3]))
torch.manual_seed(0)
autocast = sys.argv[2] == "bfloat16"
config = MambaConfig(d_model=512, n_layers=8, pscan=True)
class Block(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.norm1, self.mixer, self.norm2 = RMSNorm(512, 1e-5), MambaBlock(config), RMSNorm(512, 1e-5)
        self.fc1, self.fc2 = torch.nn.Linear(512, 4096, bias=False), torch.nn.Linear(2048, 512, bias=False)
    def forward(self, x):
        x = x + self.mixer(self.norm1(x))
        y, gate = self.fc1(self.norm2(x)).chunk(2, -1)
        return x + self.fc2(y * torch.nn.functional.silu(gate))
class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = torch.nn.Embedding(50280, 512)
        self.blocks, self.norm = torch.nn.Sequential(*[Block() for _ in range(8)]), RMSNorm(512, 1e-5)
    def forward(self, ids):
        return self.norm(self.blocks(self.embedding(ids))) @ self.embedding.weight.t()
model = Model()
optimizer = torch.optim.AdamW(model.parameters(), fused=True)
ids = torch.randint(50280, (2, 513))
def step():
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        logits = model(ids[:, :-1])
    torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), ids[:, 1:].flatten()).backward()
    optimizer.step(); optimizer.zero_grad()
for _ in range(4):
    step()
t = time.time(); step(); step(); seconds = (time.time() - t) / 2
import resource
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
print(1024 / seconds)
"""

# A 130M-shaped Mamba with random weights as a GGUF file, and llama.cpp's own timings of it, through its Python binding xllamacpp.
LLAMA_MODEL = """
import sys, numpy as np, gguf
path, bf16 = sys.argv[1], sys.argv[2] == "bf16"
d_model, layers, vocab, inner, rank, state, conv = map(int, sys.argv[3:])
w = gguf.GGUFWriter(path, "mamba")
w.add_context_length(1 << 20); w.add_embedding_length(d_model); w.add_feed_forward_length(0); w.add_head_count(0); w.add_block_count(layers)
w.add_ssm_conv_kernel(conv); w.add_ssm_inner_size(inner); w.add_ssm_state_size(state); w.add_ssm_time_step_rank(rank)
w.add_layer_norm_rms_eps(1e-5)
w.add_tokenizer_model("gpt2"); w.add_tokenizer_pre("gpt-2"); w.add_token_list(["<end>"] + ["w%05d" % i for i in range(1, vocab)])
w.add_token_types([3] + [1] * (vocab - 1)); w.add_token_merges(["w 0"]); w.add_bos_token_id(0); w.add_eos_token_id(0); w.add_add_bos_token(False)
rng = np.random.default_rng(0)
def matrix(name, *shape):
    x = rng.standard_normal(shape, dtype=np.float32) * np.float32(0.02)
    kind = gguf.GGMLQuantizationType.BF16
    w.add_tensor(name, gguf.quants.quantize(x, kind), raw_dtype=kind) if bf16 else w.add_tensor(name, x)
def vector(name, shape, value):
    w.add_tensor(name, np.broadcast_to(np.float32(value), shape).copy())
matrix("token_embd.weight", vocab, d_model); vector("output_norm.weight", d_model, 1)
for i in range(layers):
    b = f"blk.{i}."
    vector(b + "attn_norm.weight", d_model, 1); matrix(b + "ssm_in.weight", 2 * inner, d_model)
    vector(b + "ssm_conv1d.weight", (inner, conv), 0.25); vector(b + "ssm_conv1d.bias", inner, 0)
    matrix(b + "ssm_x.weight", rank + 2 * state, inner); matrix(b + "ssm_dt.weight", inner, rank); vector(b + "ssm_dt.bias", inner, -4)
    vector(b + "ssm_a", (inner, state), -np.arange(1, state + 1)); vector(b + "ssm_d", inner, 1); matrix(b + "ssm_out.weight", d_model, inner)
w.write_header_to_file(); w.write_kv_data_to_file(); w.write_tensors_to_file(); w.close()
"""
LLAMA = """
import sys, json, random, xllamacpp
path, what, threads = sys.argv[1], sys.argv[2], int(sys.argv[3])
p = xllamacpp.CommonParams()
p.model.path, p.n_ctx, p.n_parallel, p.n_batch, p.n_ubatch, p.verbosity = path, 2048, 1, 512, 512, 0
p.cpuparams.n_threads = p.cpuparams_batch.n_threads = threads
server = xllamacpp.Server(p)
def timings(prompt, tokens):
    r = server.handle_completions({"prompt": random.sample(range(1, 50000), prompt), "n_predict": tokens, "temperature": 0,
                                   "ignore_eos": True, "cache_prompt": False})
    return (json.loads(r) if isinstance(r, str) else r)["timings"]
timings(8, 2)
print(timings(512, 1)["prompt_per_second"] if what == "prefill" else timings(4, 24)["predicted_per_second"])
"""

# glibc keeps large blocks instead of giving them back to the kernel after every use, and asks for huge pages.
TUNED_MALLOC = {"GLIBC_TUNABLES": "glibc.malloc.mmap_threshold=4294967296:glibc.malloc.trim_threshold=17179869184:glibc.malloc.hugetlb=1"}


def last_number(command, env=None, pattern=None, stream="stdout"):
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", env=env)
    if done.returncode != 0:
        raise RuntimeError(f"{command[0]}: exit {done.returncode}: {done.stderr.strip().splitlines()[-1:]}")
    text = getattr(done, stream)
    return float(re.findall(pattern, text)[-1] if pattern else text.strip().splitlines()[-1])


memory = {}  # (name, precision): largest resident size of a training process


def mambapy(python, precision, threads, name, tuning):
    command = [python, "-c", MAMBAPY, "train", precision, str(threads)]
    done = subprocess.run(command, capture_output=True, text=True, env=dict(os.environ, **tuning))
    if done.returncode != 0:
        raise RuntimeError(f"mambapy: exit {done.returncode}: {done.stderr.strip().splitlines()[-1:]}")
    resident, rate = (float(line) for line in done.stdout.split())
    memory.setdefault((name, {"float32": "fp32", "bfloat16": "bf16"}[precision]), []).append(resident)
    return rate


def smamba(program, what, precision, threads):
    command = [program, "bench", what, "--preset", "mamba", "--precision", precision, "--threads", str(threads), "--json"]
    command += {"decode": ["--tokens", "8", "--repeats", "3"], "prefill": ["--repeats", "1"], "train": ["--repeats", "1"]}[what]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    figures = json.loads(done.stdout.strip().splitlines()[-1])
    if "share_of_read_bandwidth" in figures:
        smamba.shares.setdefault(precision, []).append(figures["share_of_read_bandwidth"])
    if what == "train":
        memory.setdefault(("smamba", precision), []).append(figures["peak_memory_bytes"])
    return figures["tokens_per_second"]


smamba.shares = {}


def write_mamba_c_model(folder):
    """Random weights in mamba.c's own format (version 1), and a vocabulary of made-up words."""
    rng = random.Random(0)
    block = array.array("f", (rng.uniform(-0.05, 0.05) for _ in range(1 << 16)))

    def fill(file, count, values=block):
        while count > 0:
            values[: min(count, len(values))].tofile(file)
            count -= len(values)

    with open(os.path.join(folder, "model.bin"), "wb") as file:
        header = struct.pack("<Ii9i", 0x4D616D62, 1, LAYERS, VOCAB, D_MODEL, D_INNER, RANK, STATE, CONV, 1, VOCAB)
        file.write(header.ljust(256, b"\0"))
        fill(file, VOCAB * D_MODEL + LAYERS * 2 * D_INNER * D_MODEL + LAYERS * D_INNER * (CONV + 1))
        fill(file, LAYERS * (RANK + 2 * STATE) * D_INNER + LAYERS * D_INNER * RANK)
        fill(file, LAYERS * D_INNER, array.array("f", [-4.0] * 4096))
        fill(file, LAYERS * D_INNER * STATE, array.array("f", [-float(i + 1) for i in range(STATE)] * 256))
        fill(file, LAYERS * D_INNER, array.array("f", [1.0] * 4096))
        fill(file, LAYERS * D_MODEL * D_INNER)
        fill(file, (LAYERS + 1) * D_MODEL, array.array("f", [1.0] * 4096))
    with open(os.path.join(folder, "tokenizer.bin"), "wb") as file:
        file.write(struct.pack("<Iiii", 0x4D62546B, 1, VOCAB, 8))
        for i in range(VOCAB):
            word = b"a" if i == 0 else b"w%05d" % i
            file.write(struct.pack("<i", len(word)) + word)


def mamba_c(program, folder, threads):
    env = dict(os.environ, OMP_NUM_THREADS=str(threads))
    command = [program, os.path.join(folder, "model.bin"), "-z", os.path.join(folder, "tokenizer.bin"), "-i", "a", "-n", "24", "-t", "1.0", "-s", "1"]
    return last_number(command, env, r"achieved tok/s: ([0-9.]+)", "stderr")


def llama(program, model, what, threads):
    lengths = ["-p", "0", "-n", "16"] if what == "decode" else ["-p", "512", "-n", "0"]
    done = subprocess.run([program, "-m", model, "-t", str(threads), "-r", "1", "-o", "json", *lengths], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)[0]["avg_ts"]


def llama_binding(python, folder, precision, what, threads):
    model = os.path.join(folder, f"{precision}.gguf")
    if not os.path.exists(model):
        shape = [str(v) for v in (D_MODEL, LAYERS, VOCAB, D_INNER, RANK, STATE, CONV)]
        subprocess.run([python, "-c", LLAMA_MODEL, model, precision, *shape], capture_output=True, check=True)
    return last_number([python, "-c", LLAMA, model, what, str(threads)])


def contestants(options, folder):
    """(work, name, precision of ours to compare with, measure)"""
    t, torch_name = options.threads, {"fp32": "float32", "bf16": "bfloat16"}
    out = []
    for work in options.work:
        for precision in options.precision:
            out.append((work, "smamba", precision, lambda w=work, p=precision: smamba(options.smamba, w, p, t)))
            if options.python_transformers and work != "train":
                out.append((work, "transformers", precision, lambda w=work, p=precision: last_number(
                    [options.python_transformers, "-c", TRANSFORMERS, w, torch_name[p], str(t)])))
            if options.python_mambapy and work == "train":
                for name, tuning in [("mambapy", {}), ("mambapy tuned", TUNED_MALLOC)]:
                    out.append((work, name, precision, lambda p=precision, n=name, e=tuning: mambapy(
                        options.python_mambapy, torch_name[p], t, n, e)))
        if options.mamba_c and work == "decode":
            out.append((work, "mamba.c", "fp32", lambda: mamba_c(options.mamba_c, folder, t)))
        for precision in options.precision:
            model = {"fp32": options.llama_fp32, "bf16": options.llama_bf16}[precision]
            if options.llama_bench and model and work != "train":
                out.append((work, "llama.cpp", precision, lambda m=model, w=work: llama(options.llama_bench, m, w, t)))
            if options.python_llama and work != "train":
                out.append((work, "llama.cpp", precision, lambda p=precision, w=work: llama_binding(
                    options.python_llama, folder, p, w, t)))
    return out


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--smamba", default="build/smamba", help="our program")
    p.add_argument("--mamba-c", help="mamba.c's program, built with OpenMP")
    p.add_argument("--python-transformers", help="a Python with torch and transformers")
    p.add_argument("--python-mambapy", help="a Python with torch and mambapy")
    p.add_argument("--python-llama", help="a Python with xllamacpp (llama.cpp as a package) and gguf, instead of the next three")
    p.add_argument("--llama-bench", help="llama.cpp's llama-bench")
    p.add_argument("--llama-fp32", help="a 130M Mamba as a float32 GGUF file")
    p.add_argument("--llama-bf16", help="the same in bfloat16")
    p.add_argument("--work", nargs="+", default=["decode", "prefill", "train"], choices=["decode", "prefill", "train"])
    p.add_argument("--precision", nargs="+", default=["fp32", "bf16"], choices=["fp32", "bf16"])
    p.add_argument("--threads", type=int, default=os.cpu_count())
    p.add_argument("--rounds", type=int, default=3)
    options = p.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if options.mamba_c and "decode" in options.work:
            write_mamba_c_model(folder)
        all_peers = contestants(options, folder)
        figures = {}
        for _ in range(options.rounds):
            for work, name, precision, measure in all_peers:
                try:
                    figures.setdefault((work, name, precision), []).append(measure())
                except (RuntimeError, subprocess.CalledProcessError, ValueError) as e:
                    print(f"{name}: {e}", file=sys.stderr)
                    figures.setdefault((work, name, precision), []).append(float("nan"))
    for (work, name, precision), values in figures.items():
        ours = figures.get((work, "smamba", precision), [])
        ratio = "" if name == "smamba" or not ours else f"  smamba / {name} = {statistics.median(a / b for a, b in zip(ours, values)):.2f}"
        print(f"{work:8} {name:13} {precision}  {statistics.median(values):9.1f} tokens/s{ratio}")
    for (name, precision), sizes in memory.items():
        print(f"train    {name:13} {precision}  {max(sizes) / 1e9:9.2f} GB at most")
    for precision, shares in smamba.shares.items():
        print(f"decode   smamba        {precision}  {100 * statistics.median(shares):.0f} % of the read bandwidth measured beside it")


if __name__ == "__main__":
    main()
