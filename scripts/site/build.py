"""The documentation as a site: `make docs`, or `python -m scripts.site.build [FOLDER]`.

The pages of docs/ and those of the repository's top are copied to FOLDER/pages with their links made the site's own, notebooks
and the reference are written beside them, and Zensical makes FOLDER/site of them. FOLDER is build
where none is given. Nothing is taken from the network.
"""

from __future__ import annotations

import json
import posixpath
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from scripts.site import checked, notebooks, reference
from scripts.site.places import PAGES, ROOT, Sources, with_links

DOCS, BUILD = ROOT / "docs", ROOT / "build"
INCLUDED = re.compile(r"^<!-- include (\S+?)(?:#([\w-]+))? -->$", re.MULTILINE)
LANGUAGES = {".py": "python", ".cpp": "cpp", ".cu": "cpp", ".h": "cpp", ".sh": "bash", ".toml": "toml", ".json": "json"}


def main(arguments: Sequence[str]) -> int:
    """Build the site and look it over; returns the exit status.

    arguments: at most one, the folder in which it is built.
    """
    folder = Path(*arguments).absolute() if arguments else BUILD
    site = folder / "site"
    write(folder / "pages")
    shutil.rmtree(site, ignore_errors=True)
    own = (ROOT / "zensical.toml").read_text(encoding="utf-8")
    for name, place in (("pages", "pages"), ("site", "site"), ("documented.json", str(folder / "documented.json"))):
        own = own.replace(f'"build/{name}"', json.dumps(place))
    own = own.replace('paths = ["."]', f"paths = [{json.dumps(str(ROOT))}]").replace('"scripts/site/', f'"{ROOT}/scripts/site/')
    (folder / "zensical.toml").write_text(own, encoding="utf-8")
    command = [sys.executable, "-m", "zensical", "build", "--clean", "--strict", "--config-file", str(folder / "zensical.toml")]
    if subprocess.run(command, cwd=ROOT, check=False).returncode:
        return 1
    wrong = checked.problems(site)
    print("\n".join(wrong) or f"{site}: {len(list(site.rglob('*.html')))} pages, every link leads somewhere")
    return 1 if wrong else 0


def write(folder: Path) -> None:
    """Write the Markdown of all pages, and the files they show, to a folder that is emptied before.

    Raises:
        FileNotFoundError: a link leads nowhere.
        ValueError: a notebook was stored with an error, or an included section is not there.
    """
    shutil.rmtree(folder, ignore_errors=True)
    sources = Sources(tomllib.loads((ROOT / "zensical.toml").read_text(encoding="utf-8"))["project"].get("repo_url"))
    written: dict[str, str | bytes] = {}
    places = {path.relative_to(ROOT).as_posix(): path.relative_to(DOCS).as_posix() for path in sorted(DOCS.glob("*.md"))}
    places |= {path: place for path, place in PAGES.items() if path != "README.md"}
    for path, place in places.items():
        text = (ROOT / path).read_text(encoding="utf-8")
        own = with_links(text, path, place, sources)

        def marked(mark: re.Match[str], path: str = path, place: str = place) -> str:
            return included(beside(path, mark[1]), mark[2], place, sources)

        written[place] = INCLUDED.sub(marked, own)
    for notebook in sorted((DOCS / "notebooks").glob("*.ipynb")):
        path, place = notebook.relative_to(ROOT).as_posix(), f"notebooks/{notebook.stem}.md"
        linked = partial(with_links, source=path, page=place, sources=sources)
        written[place], pictures = notebooks.page(notebook, notebook.stem, linked)
        written[f"notebooks/{notebook.name}"] = notebook.read_bytes()
        written |= {f"notebooks/{name}": content for name, content in pictures.items()}
    written |= reference.pages()
    written |= {place: source_page(path, place, sources) for path, place in list(sources.code.items())}
    written |= {place: (ROOT / path).read_bytes() for path, place in sources.files.items()}
    written |= {f"assets/{path.name}": path.read_bytes() for path in sorted((DOCS / "assets").iterdir())}
    for place, content in written.items():
        target = folder / place
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content if isinstance(content, bytes) else content.encode())
    (folder.parent / "documented.json").write_text(json.dumps(reference.documented()), encoding="utf-8")


def beside(path: str, link: str) -> str:
    """The path in the repository of what a page calls by a path from where it is."""
    return posixpath.normpath(posixpath.join(posixpath.dirname(path), link))


def included(path: str, heading: str | None, page: str, sources: Sources) -> str:
    """A section of another page of the repository, without its heading; without a heading what stands above the first one.

    Raises:
        ValueError: the page has no such section.
    """
    text = (ROOT / path).read_text(encoding="utf-8")
    sections = re.split(r"^## (.*)$", text, flags=re.MULTILINE)
    if heading is None:
        body = sections[0].partition("\n")[2]
    else:
        names = [re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in sections[1::2]]
        titled = dict(zip(names, sections[2::2], strict=True))
        if heading not in titled:
            raise ValueError(f"{path} has no section #{heading} to include; it has {', '.join(titled)}")
        body = titled[heading]
    return with_links(body.strip(), path, page, sources)


def source_page(path: str, place: str, sources: Sources) -> str:
    """A page that shows a file of the repository, or lists a folder's."""
    source = ROOT / path
    if source.is_dir():
        lines = [f"# {path}/", "", "The source files of this folder.", ""]
        inside = sorted(name for name in sources.code if name.startswith(f"{path}/"))
        links = [f"* [{name}]({posixpath.relpath(name, posixpath.dirname(path))})" for name in inside]
        return with_links("\n".join((*lines, *links, "")), path, place, sources)
    text = source.read_text(encoding="utf-8")
    return f"# {path}\n\n{notebooks.fenced(text, LANGUAGES.get(source.suffix, 'text'))}\n"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
