"""The built site looked over: links that lead nowhere, ids that stand twice, and whatever would be loaded from elsewhere."""

from __future__ import annotations

import posixpath
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urldefrag, urlsplit

LOADED = {"script": "src", "img": "src", "iframe": "src", "source": "src", "video": "src", "audio": "src", "embed": "src"}
STYLES = re.compile(r"""(?:url\(\s*["']?|@import\s+["'])((?:https?:)?//[^"')\s]+)""")
LINKED_FOR_GOOD = {"canonical", "prev", "next", "alternate"}
"""What a <link> says of other pages; a browser loads nothing for it."""


class Page(NamedTuple):
    """What counts of one page."""

    ids: list[str]
    links: list[str]
    loaded: list[str]
    """Addresses that a browser loads without being asked."""


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.page = Page([], [], [])

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        values = {name: value for name, value in attributes if value}
        if "id" in values:
            self.page.ids.append(values["id"])
        if tag == "a" and "name" in values:
            self.page.ids.append(values["name"])
        if tag == "a" and "href" in values:
            self.page.links.append(values["href"])
        if tag == "link" and "href" in values and not LINKED_FOR_GOOD & set(values.get("rel", "").split()):
            self.page.loaded.append(values["href"])
        if LOADED.get(tag) in values:
            self.page.loaded.append(values[LOADED[tag]])
        self.page.loaded.extend(STYLES.findall(values.get("style", "")))


def read(path: Path) -> Page:
    """What counts of a file of HTML."""
    reader = _Reader()
    reader.feed(path.read_text(encoding="utf-8"))
    return reader.page


def problems(site: Path) -> list[str]:
    """Everything that is wrong with a built site, a sentence each; nothing is asked of the network.

    Links to other hosts are left alone. A link within the site must lead to a file, and its anchor to an id there.
    """
    pages = {path.relative_to(site).as_posix(): read(path) for path in sorted(site.rglob("*.html"))}
    wrong = [] if pages else [f"{site}: there is no page"]
    for name, page in pages.items():
        twice = sorted({id for id in page.ids if page.ids.count(id) > 1})
        wrong += [f"{name}: the id {id!r} stands twice" for id in twice]
        for address in page.loaded:
            if urlsplit(address).netloc:
                wrong.append(f"{name}: a browser would load {address} from elsewhere")
        for address in (*page.links, *page.loaded):
            wrong += [f"{name}: {reason}" for reason in _nowhere(address, name, site, pages)]
    for path in sorted(site.rglob("*.css")):
        style = path.read_text(encoding="utf-8")
        wrong += [f"{path.relative_to(site)}: loads {address} from elsewhere" for address in STYLES.findall(style)]
    return wrong


def _nowhere(address: str, name: str, site: Path, pages: dict[str, Page]) -> list[str]:
    """Why an address of a page leads nowhere; nothing where it is right or leads out of the site."""
    parts = urlsplit(address)
    if parts.scheme or parts.netloc:
        return []
    path, anchor = urldefrag(unquote(address))
    target = posixpath.normpath(posixpath.join(posixpath.dirname(name), path.partition("?")[0])) if path else name
    if name == "404.html" and path.startswith("/"):  # it is shown at any depth, so its links begin at the top
        target = path.lstrip("/") or "."
    if target.startswith(".."):
        return [f"{address} leads out of the site"]
    if (site / target).is_dir():
        target = posixpath.normpath(f"{target}/index.html")
    if not (site / target).is_file():
        return [f"{address} leads to {target}, which is not there"]
    if anchor and target in pages and anchor not in pages[target].ids:
        return [f"{address} leads to #{anchor}, and {target} has no such id"]
    return []
