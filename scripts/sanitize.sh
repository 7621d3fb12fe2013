#!/bin/sh
# Builds the extension with AddressSanitizer and UndefinedBehaviorSanitizer, and again with ThreadSanitizer, and runs the
# kernel tests on each, those of local training and the broken calls of tests/faults among them: every instruction set of this
# machine, several threads. Any finding fails.
#   scripts/sanitize.sh [address|thread]      PYTHON names the interpreter; GCC on Linux; about 40 minutes on two cores
# The package is built into build/sanitize-*/package and tested from there; nothing of the checkout's own build is touched.
set -eu
cd "$(dirname "$0")/.."
root=$PWD
python=$(command -v "${PYTHON:-python3}")
case $python in /*) ;; *) python=$root/$python ;; esac
PATH=$(dirname "$python"):$PATH # cmake and ninja may lie beside it
compiler=${CXX:-g++}

# Python is not instrumented, so the libraries come first by preloading; libstdc++ too, or exceptions are not intercepted.
preload() {
  for library in "$@" stdc++; do "$compiler" -print-file-name="lib$library.so"; done | paste -sd: -
}

# tested NAME SANITIZERS OPTIONS LIBRARY...: OPTIONS are of the sanitizers' run time
tested() {
  name=$1 sanitizers=$2 options=$3
  shift 3
  folder=$root/build/sanitize-$name
  echo "== -fsanitize=$sanitizers in $folder"
  rm -rf "$folder/package"
  (cd packaging/flow-kernels && CXX=$compiler CMAKE_ARGS="-DCMAKE_BUILD_TYPE=RelWithDebInfo -DFLOW_SANITIZE=$sanitizers" \
    "$python" setup.py --quiet build --build-base "$folder" --build-lib "$folder/package") > "$folder.log" 2>&1 || {
      tail -40 "$folder.log"
      exit 1
    }
  cp -r flow "$folder/package/"
  cd "$folder/package" # where `python -m` and `python -c` look for packages first
  set -- env LD_PRELOAD="$(preload "$@")" $options "$python"
  "$@" -c 'import os, flow_kernels._C as c; assert c.__file__.startswith(os.getcwd()), c.__file__'
  # Only what calls the kernels without much of torch around them. TorchInductor, test_amx.py, test_build.py and
  # test_thread_pool.py start a compiler, which would be watched as well; test_no_more_threads counts threads, and
  # ThreadSanitizer has one of its own after a fork.
  # --capture=sys: a sanitizer writes to the file of stderr itself, and ends the process.
  "$@" -m pytest -q --capture=sys -p no:cacheprovider "$root/tests/kernels" "$root/tests/training" \
    "$root/tests/faults/test_kernel_arguments.py" -k "not (inductor or test_amx.py or test_build.py or test_thread_pool.py \
    or test_cell.py or test_layer or test_plan.py or test_reference.py or test_no_more_threads)"
  cd "$root"
}

mkdir -p build
case ${1:-both} in address | both)
  # Every small allocation of torch is watched: short stack traces and a small quarantine halve the time. Python never frees
  # everything, so there is nothing to say about leaks.
  tested address address,undefined \
    "ASAN_OPTIONS=detect_leaks=0:malloc_context_size=3:quarantine_size_mb=16 UBSAN_OPTIONS=print_stacktrace=1" asan ubsan ;;
esac
case ${1:-both} in thread | both)
  # torch and OpenMP are not instrumented; what their calls of memcpy do is theirs.
  tested thread thread "TSAN_OPTIONS=halt_on_error=1:ignore_noninstrumented_modules=1" tsan ;;
esac
