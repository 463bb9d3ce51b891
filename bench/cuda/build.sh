#!/bin/sh
# Builds the kernel programs with nvcc alone (no libtorch, run-time statically linked), files side by side.
# bench/cuda/build.sh [folder]
set -e
root=$(cd "$(dirname "$0")/../.." && pwd)
out=${1:-$root/build-cuda}
mkdir -p "$out"
export root out
ls -S "$root"/src/smamba/ops/cuda/*.cu "$root"/bench/cuda/*.cu | xargs -P "$(nproc)" -I{} sh -c '
  object=$out/$(echo "{}" | sed "s|$root/||; s|/|_|g").o
  if [ ! -f "$object" ] || [ -n "$(find "$root/src/smamba/ops" "$root/bench/cuda" \( -name "*.h" -o -name "*.cuh" \) -newer "$object")" ] || [ "{}" -nt "$object" ]; then
    nvcc -std=c++20 -arch=sm_90 -O3 --expt-relaxed-constexpr -I"$root/src" -Xcompiler=-Wall,-Wextra -c -o "$object" "{}" || { rm -f "$object"; exit 255; }
  fi'
for source in "$root"/bench/cuda/*.cu; do
  name=$(basename "$source" .cu)
  nvcc -arch=sm_90 -cudart static -o "$out/$name" "$out/bench_cuda_$name.cu.o" "$out"/src_smamba_ops_cuda_*.o
done
