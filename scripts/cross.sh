#!/bin/sh
# Builds a wheel of the extension for Linux on aarch64 on another processor, and runs it there as far as qemu goes: the layer
# beside torch.nn.GRU, in Debian's Python, with torch and numpy as PyPI has them for that processor.
#   scripts/cross.sh      PYTHON names an interpreter of the version in VERSION; on Debian, apt-get install
#                         g++-aarch64-linux-gnu qemu-user; takes 1 GB in build/cross
# apt keeps its lists of packages for aarch64 in build/cross: nothing of the system is changed, and root is not needed.
set -eu
cd "$(dirname "$0")/.."
VERSION=3.11
python=$(command -v "${PYTHON:-python3}")
case $python in /*) ;; *) python=$PWD/$python ;; esac
PATH=$(dirname "$python"):$PATH # cmake and ninja may lie beside it
folder=$PWD/build/cross
root=$folder/root site=$folder/site
"$python" -c "import sys; assert sys.version.startswith('$VERSION.'), f'Python $VERSION is needed, this is {sys.version}'"

# The headers to compile against and the interpreter to run in: a Debian's files, in a folder
if [ ! -e "$folder/packages" ]; then
  mkdir -p "$root" "$folder/apt/lists/partial" "$folder/apt/archives/partial"
  touch "$folder/apt/status"
  set -- -o APT::Architecture=arm64 -o APT::Architectures=arm64 -o Dir::State="$folder/apt" -o Dir::State::status="$folder/apt/status" \
    -o Dir::Cache="$folder/apt" -o APT::Sandbox::User=root -q
  apt-get "$@" update > "$folder/apt/log"
  (cd "$folder/apt/archives" && apt-get "$@" -o Debug::NoLocking=1 download "libpython$VERSION-dev" "python$VERSION-minimal" "libpython$VERSION-minimal" \
    "libpython$VERSION-stdlib" libc6 libgcc-s1 libstdc++6 zlib1g libexpat1 libssl3 libffi8 libbz2-1.0 liblzma5 libuuid1 libcrypt1 \
    libsqlite3-0 >> "$folder/apt/log")
  for package in "$folder"/apt/archives/*.deb; do dpkg -x "$package" "$root"; done
  touch "$folder/packages"
fi

# The wheel. The pool of threads, since a library of OpenMP would have to come with the wheel.
rm -rf "$folder/wheel" "$folder/build"
cd packaging/flow-kernels
CMAKE_ARGS="-DCMAKE_TOOLCHAIN_FILE=$folder/../../scripts/aarch64.cmake -DPython_INCLUDE_DIR=$root/usr/include/python$VERSION \
-DCMAKE_CXX_FLAGS=-I$root/usr/include -DPYTHON_MODULE_EXTENSION=.cpython-$(echo $VERSION | tr -d .)-aarch64-linux-gnu.so" \
  FLOW_OPENMP=0 FLOW_CUDA=0 FLOW_WERROR=1 "$python" setup.py --quiet build --build-base "$folder/build" \
  bdist_wheel --plat-name linux_aarch64 --dist-dir "$folder/wheel" > "$folder/log" 2>&1 || { tail -40 "$folder/log"; exit 1; }
cd ../..
ls -l "$folder"/wheel/*.whl

# The versions of the system's libraries that it needs, which depend on the compiler: no wheel for every Linux
unzip -qo "$folder"/wheel/*.whl 'flow_kernels/_C*' -d "$folder/build"
aarch64-linux-gnu-objdump -T "$folder"/build/flow_kernels/_C*.so | "$python" -c '
import re, sys
needs = {}
for name, version in re.findall(r"\b([A-Z]+)_([0-9.]+)", sys.stdin.read()):
    needs[name] = max(needs.get(name, ()), tuple(map(int, version.split("."))))
print("needs", *(name + "_" + ".".join(map(str, version)) for name, version in needs.items()))'

# torch and what it imports, and the wheel
if [ ! -e "$site/torch" ]; then
  "$python" -m pip install --quiet --target "$site" --platform manylinux_2_28_aarch64 --python-version "$VERSION" --only-binary=:all: --no-deps \
    torch==2.13.0 numpy typing-extensions sympy mpmath networkx jinja2 markupsafe filelock fsspec
fi
unzip -qo "$folder"/wheel/*.whl 'flow_kernels/*' -d "$site"
time qemu-aarch64 -L "$root" -E PYTHONPATH="$site" "$root/usr/bin/python$VERSION" tests/kernels/layer_alone.py
