"""Pages of the project in headless Chromium: opened at a width, pointed at, typed into, and held against axe-core's rules."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from browser import Page

ROOT = Path(__file__).parents[2]
PLACES = [ROOT / "build" / "axe" / "node_modules", ROOT / "node_modules", Path("/usr/share/nodejs")]
AXE = next((path for place in PLACES if (path := place / "axe-core" / "axe.min.js").is_file()), None)
WIDTHS = {"phone": (390, 844), "desk": (1280, 800)}
KEYS = {"ArrowRight": 39, "ArrowLeft": 37, "Escape": 27, "Enter": 13, "Tab": 9, "Home": 36, "End": 35}


def show(own: Page, path: Path, width: str = "desk", scheme: str = "light") -> None:
    """Open a file at the width of a phone or a desk, for one who prefers light or dark colours."""
    across, down = WIDTHS[width]
    own.call("Emulation.setDeviceMetricsOverride", width=across, height=down, deviceScaleFactor=1, mobile=width == "phone")
    own.call("Emulation.setEmulatedMedia", media="", features=[{"name": "prefers-color-scheme", "value": scheme}])
    own.events.clear()
    own.call("Page.navigate", url=path.resolve().as_uri())
    own.until("document.readyState === 'complete' && location.protocol === 'file:'")


def press(own: Page, key: str) -> None:
    """A key, as one types it."""
    named = {"key": key, "code": key, "windowsVirtualKeyCode": KEYS[key]} if key in KEYS else {"text": key, "key": key}
    if key == "Enter":
        named["text"] = "\r"
    for kind in ("keyDown", "keyUp"):
        own.call("Input.dispatchKeyEvent", type=kind, **{n: v for n, v in named.items() if kind == "keyDown" or n != "text"})


def middle(own: Page, element: str) -> tuple[float, float]:
    """Where the middle of an element is, which is scrolled to. element: an expression of JavaScript."""
    x, y = own.value(
        f"(() => {{ const e = {element}; e.scrollIntoView({{block: 'center', behavior: 'instant'}}); "
        "const r = e.getBoundingClientRect(); return [r.x + r.width / 2, r.y + r.height / 2]; })()"
    )
    return x, y


def point(own: Page, x: float, y: float, kind: str = "mouseMoved", **more: Any) -> None:
    """The mouse moves, is pressed or let go."""
    own.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, **more)


def click(own: Page, element: str) -> None:
    """On the middle of an element."""
    x, y = middle(own, element)
    point(own, x, y)
    for kind in ("mousePressed", "mouseReleased"):
        point(own, x, y, kind, button="left", clickCount=1)


def beyond(own: Page) -> list[str]:
    """What reaches beyond the page's width: the page itself, or a control that is in nothing that scrolls."""
    names: list[str] = own.value(
        "(() => { const width = document.documentElement.clientWidth, out = []; "
        "if (document.documentElement.scrollWidth > width) out.push('page of ' + document.documentElement.scrollWidth); "
        "for (const e of document.querySelectorAll('button, input, select, summary')) { "
        "const r = e.getBoundingClientRect(); "
        "if (r.width && !e.closest('.scroll') && (r.left < 0 || r.right > width)) out.push(e.outerHTML); } "
        "return out; })()"
    )
    return names


def objections(own: Page) -> list[tuple[str, str, list[str]]]:
    """What axe-core finds: (rule, impact, elements)."""
    assert AXE is not None, "axe-core is not installed: npm install --prefix build/axe --no-save axe-core@4"
    own.value(f"{AXE.read_text(encoding='utf-8')}; undefined")
    result: list[list[Any]] = own.value(
        "axe.run(document, {resultTypes: ['violations']}).then((r) => "
        "r.violations.map((v) => [v.id, v.impact, v.nodes.map((n) => n.html.slice(0, 160))]))"
    )
    return [(rule, impact, elements) for rule, impact, elements in result]


def saved(own: Page, element: str, folder: Path, name: str) -> str:
    """Click on what saves a file, and read the file."""
    own.call("Page.setDownloadBehavior", behavior="allow", downloadPath=str(folder))
    click(own, element)
    own.until("new Promise((done) => setTimeout(() => done(true), 100))")
    for _ in range(100):
        if (folder / name).is_file() and not list(folder.glob("*.crdownload")):
            return (folder / name).read_text(encoding="utf-8")
        own.value("new Promise((done) => setTimeout(() => done(true), 50))")
    raise AssertionError(f"{name} was not saved: {os.listdir(folder)}")


def cut(own: Page, width: int) -> list[str]:
    """What the edge of a sheet of paper cuts off. width: in pixels of CSS, 718 of A4 upright and 1047 of A4 across."""
    own.call("Emulation.setDeviceMetricsOverride", width=width, height=700, deviceScaleFactor=1, mobile=False)
    own.call("Emulation.setEmulatedMedia", media="print")
    wide: list[str] = own.value(
        "[...document.querySelectorAll('table, svg.chart, .text')]"
        ".filter((e) => e.getBoundingClientRect().right > innerWidth + 1)"
        ".map((e) => e.outerHTML.slice(0, 120))"
    )
    return wide
