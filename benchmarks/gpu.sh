#!/usr/bin/env bash
# Builds, tests, checks and measures the GPU kernels on the machine it runs on, within 9 minutes and without a network:
#   benchmarks/gpu.sh OUT [STEP ...]       everything, or only these steps; benchmarks/README.md says what each one does
# FLOW_GPU_DEVICE=cpu tries the same code on tiny sizes without a GPU, FLOW_GPU_SECONDS sets the time for all, PYTHON the Python.
set -euo pipefail
cd "$(dirname "$0")/.." && here=$PWD && cd - >/dev/null
case ${1-} in
  '' | -*) echo "usage: benchmarks/gpu.sh OUT [STEP ...]; OUT is the folder for the results" >&2; exit 2 ;;
  /*) out=$1 ;;
  *) out=$PWD/$1 ;;
esac
shift
cd "$here"
exec "${PYTHON:-python3}" -m benchmarks.gpu.steps "$out" "$@"
