"""What is noted of one thing that the doctor looks at."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, NamedTuple

Verdict = Literal["ok", "absent", "warning", "broken"]
"""absent: something optional that is not here. warning: something that costs speed or may fail later. broken: something that
every run needs."""


class Finding(NamedTuple):
    """One line of the examination."""

    area: str
    """Under which heading it stands."""
    name: str
    """Of what was looked at."""
    text: str
    """What was seen, in a few words."""
    verdict: Verdict = "ok"
    remedy: str = ""
    """What to do; never empty where the verdict is a warning or broken."""
    facts: Mapping[str, Any] = {}
    """The same as numbers and names, for programs."""


Check = Callable[[], Iterator[Finding]]


def guarded(area: str, check: Check) -> Iterator[Finding]:
    """The findings of a check; where the check itself fails, that is the last one."""
    try:
        yield from check()
    except Exception as error:  # whatever is wrong with a machine must not end the examination of it
        text = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        remedy = "put right what is broken above; where nothing is, report this with the output of `flow --version`"
        yield Finding(area, "the check", f"could not be made ({text})", "warning", remedy)
