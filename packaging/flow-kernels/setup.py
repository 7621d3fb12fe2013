"""Builds flow-kernels: with CMake the extensions flow_kernels._C and, where nvcc is available, flow_kernels._cuda. Everything
else is in pyproject.toml. FLOW_CUDA=1 insists on the second, FLOW_CUDA=0 leaves it out, FLOW_CUDA=auto is the default.
FLOW_OPENMP says alike whether the CPU kernels use OpenMP. With FLOW_WERROR=1 warnings of the compiler are errors.

The sources are those of the repository, two folders up; an sdist has a copy of them beside this file."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.sdist import sdist

HERE = Path(__file__).parent.resolve()
ROOT = HERE if (HERE / "csrc").is_dir() else HERE.parents[1]
SOURCES = ("CMakeLists.txt", "csrc", "flow_kernels")


def switch(name: str, default: str, *values: str) -> str:
    """The value of a variable of the environment, which must be one of these."""
    value = os.environ.get(name, default)
    if value not in values:
        raise SystemExit(f"{name} must be {', '.join(values[:-1])} or {values[-1]}, got {value!r}")
    return value


class CMakeBuild(build_ext):
    def build_extension(self, ext: Extension) -> None:
        import pybind11

        out = Path(self.get_ext_fullpath(ext.name)).resolve().parent
        build = Path(self.build_temp).resolve() / ext.name
        build.mkdir(parents=True, exist_ok=True)
        cuda, openmp = switch("FLOW_CUDA", "auto", "auto", "0", "1"), switch("FLOW_OPENMP", "auto", "auto", "0", "1")
        strict = switch("FLOW_WERROR", "0", "0", "1")
        for stale in out.glob("_cuda.*"):  # of an earlier build in this folder
            stale.unlink()
        # An isolated build has its tools in a folder that is gone the next time: name every one of them each time.
        cmake, ninja = shutil.which("cmake"), shutil.which("ninja")
        if cmake is None or ninja is None:
            raise SystemExit("building flow_kernels._C needs cmake and ninja: pip install cmake ninja")
        subprocess.run(
            [
                cmake, "-S", ROOT, "-B", build, "-G", "Ninja",
                f"-DCMAKE_MAKE_PROGRAM={ninja}",
                f"-DCMAKE_LIBRARY_OUTPUT_DIRECTORY={out}",
                f"-DPython_EXECUTABLE={sys.executable}",
                f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
                f"-DFLOW_CUDA={cuda}",
                f"-DFLOW_OPENMP={openmp}",
                f"-DFLOW_WERROR={strict}",
                "-DCMAKE_BUILD_TYPE=Release",
                *os.environ.get("CMAKE_ARGS", "").split(),
            ],
            check=True,
        )  # fmt: skip
        # -k 0: an error in one file hides none in another
        subprocess.run([cmake, "--build", build, "--parallel", "--", "-k", "0"], check=True)


class CompleteSdist(sdist):
    """An sdist that has its own copy of what the repository keeps two folders up."""

    def make_release_tree(self, base_dir: str, files: list[str]) -> None:
        super().make_release_tree(base_dir, [file for file in files if not file.startswith(os.pardir)])
        built = shutil.ignore_patterns("__pycache__", "*.so", "*.pyd")
        for name in SOURCES:
            source, copy = ROOT / name, Path(base_dir, name)
            if source.is_dir():
                shutil.copytree(source, copy, ignore=built, dirs_exist_ok=True)
            else:
                shutil.copy2(source, copy)


setup(
    packages=find_packages(str(ROOT), include=["flow_kernels", "flow_kernels.*"]),
    package_dir={"flow_kernels": os.path.relpath(ROOT / "flow_kernels", HERE)},
    ext_modules=[Extension("flow_kernels._C", sources=[])],
    cmdclass={"build_ext": CMakeBuild, "sdist": CompleteSdist},
)
