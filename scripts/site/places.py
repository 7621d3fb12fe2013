"""Where each file of the repository stands on the site, and what a link from one to the other becomes."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "project/contributing.md",
    "CHANGELOG.md": "project/changelog.md",
    "SECURITY.md": "project/security.md",
    "benchmarks/README.md": "project/benchmarks.md",
}
"""Pages that lie outside docs/, and where they stand on the site."""
COPIED = (".png", ".svg", ".json", ".csv", ".toml", ".css")
"""Files that a browser can take as they are."""
FENCE = re.compile(r"^(?P<fence>```+)[^\n]*\n.*?^(?P=fence)[ \t]*$", re.MULTILINE | re.DOTALL)
BRACKETS = re.compile(r"(?P<code>(`+)(?:(?!\2).)+?\2)|\]\[", re.DOTALL)
"""Code, or what would make of two indices such as [V][rows] a link by name."""
TARGET = re.compile(r"(?<=\]\()([^)\s]+)(?=\))")


class Sources:
    """The files that links lead to and that are no pages of their own; each gets a place on the site.

    Attributes:
        files: by path in the repository, the path on the site of a file that is copied.
        code: by path in the repository, the path on the site of a page that shows a file, or lists a folder.
    """

    def __init__(self, repository: str | None = None) -> None:
        """repository: the address under which files of the repository can be looked at; None: the site shows them itself."""
        self.files: dict[str, str] = {}
        self.code: dict[str, str] = {}
        self._repository = repository

    def place(self, path: str) -> str:
        """Where a file or folder of the repository stands: a path on the site, or a whole address.

        Raises:
            FileNotFoundError: the repository has nothing there.
        """
        if path in PAGES:
            return PAGES[path]
        if not (ROOT / path).exists():
            raise FileNotFoundError(f"{path} is linked to and is not in the repository; mend the link")
        if path.startswith("docs/"):
            own = path.removeprefix("docs/")
            if own.endswith(".ipynb"):
                return own.removesuffix(".ipynb") + ".md"
            if not own.endswith(".md"):
                self.files[path] = own
            return own
        if self._repository is not None:
            return f"{self._repository}/{path}"
        if path.endswith(COPIED):
            return self.files.setdefault(path, f"files/{path}")
        folder = (ROOT / path).is_dir()
        known = path in self.code
        place = self.code.setdefault(path, f"source/{path}/index.md" if folder else f"source/{path.replace('.', '-')}.md")
        if folder and not known:
            for name in listed(ROOT / path):
                self.place(f"{path}/{name}")
        return place


def listed(folder: Path) -> list[str]:
    """The names of the source files of a folder and of its packages' own folders, in order."""
    own = [path for path in folder.iterdir() if path.suffix in (".py", ".h", ".cpp", ".cu", ".md")]
    below = [path for path in folder.glob("*/*.py") if path.name != "__init__.py"]
    return sorted(path.relative_to(folder).as_posix() for path in (*own, *below) if path.name != "__init__.py")


def with_links(text: str, source: str, page: str, sources: Sources) -> str:
    """A page's Markdown with every relative link made one of the site.

    Args:
        source: the page's path in the repository.
        page: its path on the site.
        sources: learns of the files that are linked to.

    Raises:
        FileNotFoundError: a link leads nowhere.
    """

    def moved(link: re.Match[str]) -> str:
        path, mark, anchor = link[0].partition("#")
        if not path or re.match(r"[a-z]+:", path):
            return link[0]
        place = sources.place(posixpath.normpath(posixpath.join(posixpath.dirname(source), path)))
        if "://" not in place:
            place = posixpath.relpath(place, posixpath.dirname(page) or ".")
        return place + mark + anchor

    return outside_code(text, lambda part: BRACKETS.sub(lambda match: match["code"] or r"]\[", TARGET.sub(moved, part)))


def outside_code(text: str, change: Callable[[str], str]) -> str:
    """A page's Markdown with what is not in a fenced block changed."""
    parts, end = [], 0
    for fence in FENCE.finditer(text):
        parts += [change(text[end : fence.start()]), fence[0]]
        end = fence.end()
    return "".join((*parts, change(text[end:])))
