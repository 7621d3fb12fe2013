"""The built site as a reader has it: in both themes, on a phone and on a desk, and with nothing from elsewhere."""

from __future__ import annotations

import functools
import http.server
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import browser
import pytest

pytestmark = pytest.mark.browser
ROOT = Path(__file__).parents[2]
DEEP = (
    "(function walk(top) { return [...top.querySelectorAll('*')]"
    ".flatMap((e) => e.shadowRoot ? [e, ...walk(e.shadowRoot)] : [e]); })(document)"
)
"""All elements of a page, those of its components too."""
PAGES = ("", "first-run/", "algorithms/", "reference/flow/", "reference/command-line/", "notebooks/router/", "files/")


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where the site, as `make docs` builds it, is served."""
    folder = tmp_path_factory.mktemp("built")
    command = [sys.executable, "-m", "scripts.site.build", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    handler = functools.partial(Quiet, directory=str(folder / "site"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/"
        server.shutdown()


@pytest.fixture(scope="module")
def page() -> Iterator[browser.Page]:
    with browser.page() as opened:
        yield opened


def go(page: browser.Page, address: str, width: int, scheme: str) -> None:
    page.call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 600)
    page.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    page.call("Page.navigate", url=address)
    page.until(f"document.readyState === 'complete' && location.href === '{address}'")


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("name", PAGES)
def test_a_page_fits_and_asks_nobody_else(name: str, width: int, address: str, page: browser.Page) -> None:
    page.events.clear()
    go(page, address + name, width, "light")
    assert page.value("document.documentElement.scrollWidth") <= width
    assert page.value("document.querySelectorAll('h1').length") == 1
    assert all(asked.startswith((address, "data:", "blob:", "about:")) for asked in page.addresses()), page.addresses()
    assert page.problems() == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pictures_stand_on_white_in_both_themes(scheme: str, address: str) -> None:
    """Of a reader who comes for the first time: the theme stores the colours that it begins with, and keeps them."""
    with browser.page() as page:
        go(page, f"{address}simulation-speed/", 1280, scheme)
        page.until(f"document.body.dataset.mdColorScheme === '{'slate' if scheme == 'dark' else 'default'}'")
        page.until("document.querySelector('article img').complete")
        assert page.value("getComputedStyle(document.querySelector('article img')).backgroundColor") == "rgb(255, 255, 255)"
        ground = page.value("getComputedStyle(document.body).backgroundColor")
        channels = [float(number) for number in re.findall(r"[\d.]+", ground)]
        assert (channels[0] < 90) == (scheme == "dark"), ground


def test_the_search_works_without_a_network(address: str, page: browser.Page) -> None:
    page.events.clear()
    go(page, address, 1280, "light")
    page.until("document.querySelector('.md-search__button') !== null")
    page.value("document.querySelector('.md-search__button').click()")
    page.until(f"{DEEP}.some((e) => e.matches('input') && e.getClientRects().length)")
    page.value(f"{DEEP}.find((e) => e.matches('input') && e.getClientRects().length).focus()")
    page.call("Input.insertText", text="perplexity")
    page.until(
        f"{DEEP}.some((e) => e.matches('a[href]') && e.textContent.includes('erplexity') && e.getRootNode() !== document)"
    )
    assert all(asked.startswith((address, "data:", "blob:", "about:")) for asked in page.addresses())
