"""Builds the extension flow_kernels._C with CMake; everything else is in pyproject.toml."""

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
                "-DCMAKE_BUILD_TYPE=Release",
                *os.environ.get("CMAKE_ARGS", "").split(),
            ],
            check=True,
        )  # fmt: skip
        subprocess.run([cmake, "--build", build, "--parallel"], check=True)


setup(ext_modules=[Extension("flow_kernels._C", sources=[])], cmdclass={"build_ext": CMakeBuild})
