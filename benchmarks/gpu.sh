#!/usr/bin/env bash
# Builds, tests, checks and measures the GPU kernels on the machine it runs on, without a network, the worthiest facts first:
#   benchmarks/gpu.sh OUT [STEP ...] [--budget SECONDS]     benchmarks/README.md says what each step does
# OUT is the folder for the results. A second call on it goes on where the first one ended. 840 seconds are shared by the steps.
# FLOW_GPU_DEVICE=cpu tries the same code on tiny sizes without a GPU, PYTHON names the Python.
set -euo pipefail
export PYTHONPATH="$(cd "$(dirname "$0")/.." && pwd)${PYTHONPATH:+:$PYTHONPATH}"
exec "${PYTHON:-python3}" -m benchmarks.gpu.session "$@"
