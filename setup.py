"""Which flow-kernels flow-fl needs; everything else is in pyproject.toml.

An sdist, and so every wheel of a release, needs flow-kernels of its own version. In the repository the kernels are built from
the same sources: `pip install .` and `pip install git+URL` install both. Where flow-kernels is installed in editable mode, it
stays."""

import re
import sysconfig
from importlib import metadata
from pathlib import Path

from setuptools import setup

HERE = Path(__file__).parent.resolve()
KERNELS = HERE / "packaging" / "flow-kernels"
OTHERS = [
    "torch>=2.11",
    "numpy>=1.26",
    "safetensors>=0.5",
    "tyro>=1.0",
    "tqdm>=4.66",
    "jinja2>=3.1",
]


def editable() -> bool:
    """Whether flow-kernels is installed in editable mode, in the environment that this build is for."""
    place = [sysconfig.get_path("purelib")]  # an isolated build does not see it on sys.path
    origins = [installed.read_text("direct_url.json") for installed in metadata.distributions(name="flow-kernels", path=place)]
    return any(origin is not None and '"editable": true' in origin for origin in origins)


def kernels() -> str:
    """The requirement of flow-kernels."""
    if (KERNELS / "setup.py").exists() and not editable():
        return f"flow-kernels @ {KERNELS.as_uri()}"
    version = re.search(r'^__version__ = "(.+)"$', (HERE / "flow" / "version.py").read_text(encoding="utf-8"), re.MULTILINE)
    assert version is not None
    return f"flow-kernels=={version[1]}"


setup(install_requires=[kernels(), *OTHERS])
