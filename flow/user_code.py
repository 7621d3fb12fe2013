"""Code of the user: an object loaded from a Python file that is named beside an option, or brought by an installed package, and
which file some code is from.

A file runs only where the user names it, on the command line or in an argument. Nothing that a run wrote makes it run.

While the file runs, its folder stands first on ``sys.path``, as for a script, so its top may import the modules beside it.
Afterwards the folder is taken off again: an import inside a function that runs later does not find them. SHA-256 are of the
file that is named, not of the modules beside it.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.util
import inspect
import os
import re
import site
import sys
import sysconfig
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any, NamedTuple

from flow.checks import check_text
from flow.errors import UserError

SUFFIX = ".py"
_SHA256 = "__flow_sha256__"
"""The name of a loaded module's attribute with the SHA-256 of what was executed."""


class Loaded(NamedTuple):
    """An object of a user's file."""

    value: Any
    reference: str
    """FILE.py:NAME, as it was given."""
    path: Path
    """The file, absolute and without links."""
    sha256: str
    """Of the file's bytes, in hexadecimal digits."""


class Brought(NamedTuple):
    """An object that an installed package brings."""

    value: Any
    where: str
    """Which package brings what, as messages begin."""
    remedy: str
    """What to do where it cannot be used, as messages end."""


def is_reference(text: str) -> bool:
    """Whether a text has the form FILE.py:NAME. Neither the file nor the name has to exist."""
    return bool(re.fullmatch(rf"(?s).+{re.escape(SUFFIX)}:[^/\\]*", text))


def load(reference: str, option: str, beside: Path | None = None) -> Loaded:
    """Execute a file as a module and take an object of it.

    The module has a name made of the file's name, its path and its content, under which it stands in ``sys.modules``. So the
    same file with the same content is executed once in a process, and after a change it is another module.

    Args:
        reference: FILE.py:NAME.
        option: what the user gave the reference for; messages begin with it.
        beside: the folder from which a relative path starts. None: the working directory.

    Raises:
        UserError: the reference has another form; there is no such file, or it is not Python in UTF-8; it raised something or
            ended the program; or it has no such name.
    """
    given = f"{option}={reference!r}"
    check_text(option, reference)
    file, _, name = reference.rpartition(":")
    if not is_reference(reference) or not name.isidentifier():
        raise UserError(
            f"{given} must have the form FILE.py:NAME, with NAME a variable, function or class of the file; write it so"
        )
    path = (beside or Path()) / file
    source = _read(given, path)
    path = path.resolve()
    module = _module(given, path, source)
    if name not in vars(module):
        public = ", ".join(_public(module)) or "none"
        raise UserError(
            f"{given}: {path.name} has no {name!r} at its top level; the public names in it are {public}; give one of these"
        )
    return Loaded(vars(module)[name], reference, path, getattr(module, _SHA256))


def brought(group: str, what: str) -> Iterator[Brought]:
    """What installed packages bring by entry points, in the order of their names.

    Args:
        group: of the entry points, such as "flow.algorithms".
        what: the word for such an object in messages.

    Raises:
        UserError: one cannot be loaded.
    """
    for point in sorted(metadata.entry_points(group=group), key=lambda point: point.name):
        package = point.dist.name if point.dist else point.value
        where = f"the package {package} brings the {what} {point.name!r} ({point.value})"
        remedy = f"correct the package, or run: pip uninstall {package}"
        try:
            value = point.load()
        except Exception as error:
            raise UserError(f"{where}, which cannot be loaded ({type(error).__name__}: {error}); {remedy}") from error
        yield Brought(value, where, remedy)


def source_of(*objects: Any) -> tuple[str, str] | None:
    """The user's file that functions and classes are written in -> its name without folders, and the SHA-256 of its bytes.

    Of a class its bases count too, of a partial or a method the function, and of a :class:`Loaded` its file. Code of flow, of
    Python and of installed packages does not count: the version of a package says what it is. A file that was loaded by
    :func:`load` has the SHA-256 of what was executed, any other file that of its content now. Where code lies in several files,
    the name is all their names, and the SHA-256 is of their lines "SHA-256 name". Code without a file, as in a notebook, counts
    by the SHA-256 of its source text, under the name of its module.

    Returns:
        None where there is no such code, or nothing is known of its text.
    """
    known = {str(each.path): (each.path.name, each.sha256) for each in objects if isinstance(each, Loaded)}
    loose: dict[str, list[str]] = {}
    for piece in dict.fromkeys(part for each in objects if not isinstance(each, Loaded) for part in _code(each)):
        module = sys.modules.get(getattr(piece, "__module__", None) or "")
        file = _file_of(piece, module)
        if file is None:
            text = _text_of(piece)
            if text is not None:
                loose.setdefault(module.__name__ if module else "notebook", []).append(text)
        elif str(file) not in known and not _installed(file):
            sha256 = getattr(module, _SHA256, None) or hashlib.sha256(file.read_bytes()).hexdigest()
            known[str(file)] = (file.name, sha256)
    for name, texts in loose.items():
        known[f"<{name}>"] = (name, hashlib.sha256("\n".join(texts).encode()).hexdigest())
    sources = list(known.values())
    if len(sources) < 2:
        return sources[0] if sources else None
    lines = "".join(sorted(f"{sha256} {name}\n" for name, sha256 in sources))
    return ", ".join(name for name, _ in sources), hashlib.sha256(lines.encode()).hexdigest()


def origin(value: Any) -> str:
    """The file that a class or a function is written in, or the name of its module where that has none, as in a notebook."""
    name = next(_code(value)).__module__
    file = getattr(sys.modules.get(name), "__file__", None)
    return str(Path(file).resolve()) if file else str(name)


# --- loading ----------------------------------------------------------------------------------------------------------


def _read(given: str, path: Path) -> bytes:
    try:
        if path.is_dir():
            raise UserError(f"{given}: {path} is a folder and not a file; give the path of a Python file")
        if not path.exists():
            raise UserError(
                f"{given}: there is no file {path}; give the path of a Python file, from the working directory or absolute"
            )
        if not path.is_file():  # a pipe may have no writer, and a device no end
            raise UserError(f"{given}: {path} is not a regular file; give the path of a Python file")
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{given}: {path} cannot be read ({error}); give a Python file that you may read") from error


def _module(given: str, path: Path, source: bytes) -> ModuleType:
    """The file as a module, executed unless the same content of it was before."""
    sha256 = hashlib.sha256(source).hexdigest()
    digest = hashlib.sha256(os.fsencode(path) + b"\0" + sha256.encode()).hexdigest()
    name = f"user_{re.sub(r'[^0-9A-Za-z_]', '_', path.stem)}_{digest[:16]}"
    if name in sys.modules:
        return sys.modules[name]
    tree, code = _compiled(given, path, source)
    spec = importlib.util.spec_from_file_location(name, path)
    assert isinstance(spec, ModuleSpec)
    module = importlib.util.module_from_spec(spec)
    setattr(module, _SHA256, sha256)
    _check_siblings(given, path, tree)
    sys.modules[name] = module
    try:
        with _first_on_the_path(path.parent):
            exec(code, vars(module))
    except BaseException as error:
        del sys.modules[name]
        line = _line(error, path)
        where = f"{given}: {path.name}" + (f" stopped in line {line}" if line else " stopped")
        if isinstance(error, SystemExit):
            raise UserError(
                f"{where}, where it ends the program (SystemExit: {error}); leave that out, or put it under "
                "`if __name__ == '__main__':`"
            ) from error
        if not isinstance(error, Exception):
            raise
        raise UserError(f"{where} with {_told(error)}; correct the file") from error
    return module


def _told(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _compiled(given: str, path: Path, source: bytes) -> tuple[ast.Module, CodeType]:
    try:
        text = source.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = source.count(b"\n", 0, error.start) + 1
        raise UserError(f"{given}: {path.name} is not UTF-8 in line {line} ({error.reason}); save it as UTF-8") from error
    try:
        tree = ast.parse(text, str(path))
        return tree, compile(tree, str(path), "exec", dont_inherit=True)
    except SyntaxError as error:
        where = f" in line {error.lineno}" if error.lineno else ""
        raise UserError(
            f"{given}: {path.name} is not Python{where} ({type(error).__name__}: {error.msg}); correct the file"
        ) from error
    except (ValueError, RecursionError, MemoryError) as error:  # a NUL character, or nested too deep
        raise UserError(f"{given}: {path.name} is not Python ({_told(error)}); correct the file") from error


def _check_siblings(given: str, path: Path, tree: ast.Module) -> None:
    """Refuse a file that imports a module beside it where another module of that name is loaded, which it would get instead."""
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module and not node.level}
    for name in sorted({each.partition(".")[0] for each in imported}):
        own = [path.parent / f"{name}.py", path.parent / name / "__init__.py"]
        loaded = getattr(sys.modules.get(name), "__file__", None)
        here = [file for file in own if file.is_file()]
        if here and loaded and Path(loaded).resolve() not in [file.resolve() for file in here]:
            raise UserError(
                f"{given}: {path.name} imports {name!r}, which is beside it, but another module of this name is loaded "
                f"already, {loaded}; rename the one beside it"
            )


@contextmanager
def _first_on_the_path(folder: Path) -> Iterator[None]:
    entry = str(folder)
    sys.path.insert(0, entry)
    importlib.invalidate_caches()  # a module beside it may have been written a moment ago
    try:
        yield
    finally:
        if entry in sys.path:
            sys.path.remove(entry)


def _line(error: BaseException, path: Path) -> int | None:
    """The last line of the file on the way to an exception."""
    lines = [number for frame, number in traceback.walk_tb(error.__traceback__) if frame.f_code.co_filename == str(path)]
    return lines[-1] if lines else None


def _public(module: ModuleType) -> list[str]:
    """The names that a file gives to values of its own."""
    return [
        name
        for name, value in vars(module).items()
        if not name.startswith("_")
        and not isinstance(value, ModuleType)
        and type(value).__module__ != "__future__"
        and not (isinstance(value, type | FunctionType) and value.__module__ != module.__name__)
    ]


# --- where code is from -----------------------------------------------------------------------------------------------


def _code(value: Any) -> Iterator[Any]:
    """The functions and classes behind a callable."""
    if isinstance(value, functools.partial):
        yield from _code(value.func)
        for argument in (*value.args, *value.keywords.values()):
            if callable(argument):
                yield from _code(argument)
    elif isinstance(value, MethodType):
        yield from _code(value.__func__)
        yield from _code(value.__self__ if isinstance(value.__self__, type) else type(value.__self__))
    elif isinstance(value, type):
        yield from value.__mro__
    elif isinstance(value, FunctionType):
        yield value
        inner = inspect.unwrap(value)
        if inner is not value:
            yield from _code(inner)
    elif value is not None:
        yield from type(value).__mro__


def _file_of(piece: Any, module: ModuleType | None) -> Path | None:
    """The file of a function or class. None: it has none that exists, as in a notebook."""
    own = getattr(module, "__file__", None)
    if isinstance(piece, FunctionType):
        name = piece.__code__.co_filename
        own = own if name == "<string>" else name  # the functions that dataclasses writes have no file
    return Path(own).resolve() if own and os.path.isfile(own) else None


def _text_of(piece: Any) -> str | None:
    try:
        return inspect.getsource(piece)
    except (OSError, TypeError):  # typed at a prompt, built in, or made by a program
        return None


@functools.cache
def _roots() -> tuple[Path, ...]:
    """The folders of Python, of installed packages and of flow."""
    paths = [sysconfig.get_paths()[kind] for kind in ("stdlib", "platstdlib", "purelib", "platlib")]
    kernels = importlib.util.find_spec("flow_kernels")
    own = [os.path.dirname(__file__), *([] if kernels is None or kernels.origin is None else [os.path.dirname(kernels.origin)])]
    return tuple(
        Path(path).resolve() for path in dict.fromkeys([*paths, *site.getsitepackages(), site.getusersitepackages(), *own])
    )


def _installed(file: Path) -> bool:
    return any(file.is_relative_to(root) for root in _roots())
