#!/bin/sh
# Builds a wheel of the extension for Linux on aarch64 on another processor, and imports the module of that
# wheel under qemu, in Debian's Python for aarch64.
#   scripts/cross.sh      PYTHON names an interpreter of the version in VERSION; on Debian, apt-get install
#                         g++-aarch64-linux-gnu qemu-user; all of it lies in build/cross
# apt keeps its lists of packages for aarch64 in build/cross: nothing of the system is changed, and root is not needed.
set -eu
cd "$(dirname "$0")/.."
VERSION=3.11
python=$(command -v "${PYTHON:-python3}")
case $python in /*) ;; *) python=$PWD/$python ;; esac
PATH=$(dirname "$python"):$PATH # cmake and ninja may lie beside it
folder=$PWD/build/cross
root=$folder/root
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

# torch for aarch64 on PyPI needs libraries of CUDA, so the layer is not run: the module is imported alone, in Debian's Python
qemu-aarch64 -L "$root" "$root/usr/bin/python$VERSION" -c '
import glob, importlib.util, sys
spec = importlib.util.spec_from_file_location("_C", *glob.glob(sys.argv[1] + "/flow_kernels/_C*.so"))
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
print(sys.version, module.isa(), module.threads(), module.division(1, 20, 16, 96, 256, 0, 2, True))
assert module.isa() == "baseline" and module.threads() == "thread pool" and module.division(1, 20, 16, 96, 256, 0, 2, True)[0] == 2
' "$folder/build"
