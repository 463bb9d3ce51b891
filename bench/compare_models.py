#!/usr/bin/env python3
"""Trains several configurations on the same batches, over several seeds, and prints validation loss beside that of the first one.

  bench/compare_models.py STORE -o FOLDER --seeds 3 --steps 300 -m mamba -m sc-mamba-strict -m 'sc-mamba-strict model.mixer.input_scale=0.1'
A model is a preset and any number of key=value settings, separated by spaces. --common holds settings for all. Runs that are complete in
FOLDER are not repeated. Figures: nats per token on the same held-out documents, the mean over seeds, and the mean and the spread of the
differences to the first model, seed by seed.
"""

import argparse
import concurrent.futures
import json
import os
import re
import shutil
import statistics
import subprocess
import sys


def train(options, model, seed):
    preset, *settings = model.split()
    folder = os.path.join(options.output, re.sub(r"[^A-Za-z0-9.=-]+", "_", model) + f"-seed{seed}")
    summary = os.path.join(folder, "summary.json")
    if not os.path.exists(summary):
        shutil.rmtree(folder, ignore_errors=True)
        command = [options.program, "--quiet", "train", "--data", options.store, "--preset", preset, "--size", options.size, "--output", folder]
        for setting in [f"steps={options.steps}", f"seed={seed}", "eval_every=0", *options.common.split(), *settings]:
            command += ["--set", setting]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            print(f"{model}, seed {seed}: exit {done.returncode}: {done.stderr.strip().splitlines()[-1:]}", file=sys.stderr)
            return None
    with open(summary) as file:
        figures = json.load(file)
    return figures["validation"]["loss"], figures["seconds"], figures["parameters"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store")
    parser.add_argument("-o", "--output", required=True)
    parser.add_argument("-m", "--model", action="append", required=True, dest="models")
    parser.add_argument("--common", default="")
    parser.add_argument("--size", default="demo")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time; training times then mean little")
    parser.add_argument("--program", default="build/smamba")
    options = parser.parse_args()
    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        runs = {(m, s): pool.submit(train, options, m, s) for m in options.models for s in range(options.seeds)}
    print(f"{'model':<72} {'parameters':>11} {'nats/token':>11} {'against the first':>20} {'seconds':>8}")
    first = options.models[0]
    baseline = [runs[first, s].result() for s in range(options.seeds)]
    if None in baseline:
        sys.exit(f"{first}: the model that the others are compared with failed")
    for model in options.models:
        results = [runs[model, s].result() for s in range(options.seeds)]
        if None in results:
            print(f"{model:<72} failed")
            continue
        differences = [100 * (results[s][0] / baseline[s][0] - 1) for s in range(options.seeds)]
        spread = statistics.stdev(differences) if len(differences) > 1 else 0.0
        print(f"{model:<72} {results[0][2]:>11,} {statistics.mean(r[0] for r in results):>11.4f} "
              f"{statistics.mean(differences):>+10.2f} % ± {spread:.2f} {statistics.mean(r[1] for r in results):>9.1f}", flush=True)


if __name__ == "__main__":
    main()
