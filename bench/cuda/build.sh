#!/bin/sh
# Builds the kernel programs with nvcc alone (no libtorch, run-time statically linked), so that they can be carried to a GPU machine.
# bench/cuda/build.sh [folder]
set -e
root=$(cd "$(dirname "$0")/../.." && pwd)
out=${1:-$root/build-cuda}
mkdir -p "$out"
flags="-std=c++20 -arch=sm_90 -O3 --expt-relaxed-constexpr -I$root/src -Xcompiler=-Wall,-Wextra"
build() { # source object
  if [ ! -f "$2" ] || [ -n "$(find "$root/src/smamba/ops" "$root/bench/cuda" \( -name '*.h' -o -name '*.cuh' \) -newer "$2")" ] || [ "$1" -nt "$2" ]; then
    echo "$1"
    nvcc $flags -c -o "$2" "$1"
  fi
}
for source in "$root"/src/smamba/ops/cuda/*.cu; do build "$source" "$out/$(basename "$source" .cu).o"; done
for source in "$root"/bench/cuda/*.cu; do
  name=$(basename "$source" .cu)
  build "$source" "$out/$name.main.o"
  nvcc -arch=sm_90 -cudart static -o "$out/$name" "$out/$name.main.o" $(ls "$out"/*.o | grep -v '\.main\.o$')
done
