#!/bin/sh
# Builds the extension with clang, warnings as errors, with OpenMP and without, and runs the kernel tests on both.
#   scripts/clang.sh      PYTHON names the interpreter, CXX the compiler; apt-get install clang libomp-dev
# The package and its tests are put together in build/clang/package; nothing of the checkout's own build is touched.
set -eu
cd "$(dirname "$0")/.."
python=$(command -v "${PYTHON:-python3}")
case $python in /*) ;; *) python=$PWD/$python ;; esac
PATH=$(dirname "$python"):$PATH # cmake and ninja may lie beside it
compiler=$(command -v "${CXX:-clang++}")
folder=$PWD/build/clang

rm -rf "$folder/package"
mkdir -p "$folder/package"
cp -r flow flow_kernels csrc tests pyproject.toml "$folder/package"
cd "$folder/package" # where `python -m` and `python -c` look for packages first
rm -f flow_kernels/_C* flow_kernels/_cuda*
for openmp in 1 0; do
  echo "== $compiler, FLOW_OPENMP=$openmp"
  cmake -S "$folder/../.." -B "$folder/cmake" -G Ninja "-DCMAKE_CXX_COMPILER=$compiler" \
    "-DCMAKE_LIBRARY_OUTPUT_DIRECTORY=$folder/package/flow_kernels" "-DPython_EXECUTABLE=$python" \
    "-Dpybind11_DIR=$("$python" -m pybind11 --cmakedir)" -DFLOW_WERROR=ON "-DFLOW_OPENMP=$openmp" > "$folder/log"
  cmake --build "$folder/cmake" >> "$folder/log" || { tail -40 "$folder/log"; exit 1; }
  "$python" -c 'import os, flow_kernels as f; print(f.__file__, f.backends()["cpu"]); assert f.__file__.startswith(os.getcwd())'
  # test_thread_pool.py compiles by CXX; TorchInductor would too, and takes the compiler that it finds
  CXX=$compiler "$python" -m pytest -q -p no:cacheprovider tests/kernels/test_thread_pool.py
  # clang's OpenMP has a library of its own, and so threads beside those of torch
  case $openmp in 1) other="or test_no_more_threads" ;; *) other= ;; esac
  "$python" -m pytest -q -p no:cacheprovider tests/kernels \
    -k "not (test_amx.py or test_build.py or test_thread_pool.py $other)"
done
