"""Builds the extensions flow_kernels._C and, where nvcc is found, flow_kernels._cuda with CMake; everything else is in
pyproject.toml. FLOW_CUDA=1 insists on the second, FLOW_CUDA=0 leaves it out, FLOW_CUDA=auto is the default. With FLOW_WERROR=1
warnings of the compiler are errors."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pybind11
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext


class CMakeBuild(build_ext):
    def build_extension(self, ext: Extension) -> None:
        source = Path(__file__).parent.resolve()
        out = Path(self.get_ext_fullpath(ext.name)).resolve().parent
        build = Path(self.build_temp).resolve() / ext.name
        build.mkdir(parents=True, exist_ok=True)
        cuda = os.environ.get("FLOW_CUDA", "auto")
        if cuda not in ("auto", "0", "1"):
            raise SystemExit(f"FLOW_CUDA must be auto, 0 or 1, got {cuda!r}")
        strict = os.environ.get("FLOW_WERROR", "0")
        if strict not in ("0", "1"):
            raise SystemExit(f"FLOW_WERROR must be 0 or 1, got {strict!r}")
        for stale in out.glob("_cuda.*"):  # of an earlier build in this folder
            stale.unlink()
        # An isolated build has its tools in a folder that is gone the next time: name every one of them each time.
        cmake, ninja = shutil.which("cmake"), shutil.which("ninja")
        if cmake is None or ninja is None:
            raise SystemExit("building flow_kernels._C needs cmake and ninja: pip install cmake ninja")
        subprocess.run(
            [
                cmake, "-S", source, "-B", build, "-G", "Ninja",
                f"-DCMAKE_MAKE_PROGRAM={ninja}",
                f"-DCMAKE_LIBRARY_OUTPUT_DIRECTORY={out}",
                f"-DPython_EXECUTABLE={sys.executable}",
                f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
                f"-DFLOW_CUDA={cuda}",
                f"-DFLOW_WERROR={strict}",
                "-DCMAKE_BUILD_TYPE=Release",
                *os.environ.get("CMAKE_ARGS", "").split(),
            ],
            check=True,
        )  # fmt: skip
        # -k 0: an error in one file hides none in another
        subprocess.run([cmake, "--build", build, "--parallel", "--", "-k", "0"], check=True)


setup(ext_modules=[Extension("flow_kernels._C", sources=[])], cmdclass={"build_ext": CMakeBuild})
