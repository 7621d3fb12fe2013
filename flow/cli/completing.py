"""The scripts by which shells complete the command line. They are written when flow is developed, by
scripts/write_completions.py, and printed as they are: a shell starts no Python to complete a word."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import tyro

from flow.algorithms.registry import NAMES
from flow.cli import script_of
from flow.cli.command import Command
from flow.evaluation.registry import all_metrics

SHELLS = ("bash", "zsh", "fish")
FLAG, FREE, FILE, FOLDER = "", "*", "FILE", "FOLDER"
"""What follows an option that has no choices: nothing, anything, a file, a folder."""
_METRICS = tuple(metric.name for metric in all_metrics())
VALUES: dict[str, tuple[str, ...]] = {
    "--folder": (FOLDER,),
    "--resume": (FOLDER,),
    "--out": (FOLDER,),
    "--settings": (FILE,),
    "--texts": (FILE,),
    "--score": (FILE,),
    "--model": (FILE,),
    "--algorithm": (FILE,),
    "--metric": (FILE, *_METRICS),
    "--data": (FILE, "shakespeare", "synthetic"),
    "--tokenizer": (FILE, "words", "characters"),
    "--backend": ("auto", "reference", "cpu", "triton", "cuda"),
    "--device": ("cpu", "cuda"),
    "--against": tuple(NAMES),
    "--tune-by": _METRICS,
}
"""What follows an option of which the parser only knows that it is a string."""
POSITIONALS = {
    "run": tuple(NAMES),
    "compare": tuple(NAMES),
    "data": (FILE, "shakespeare", "synthetic"),
    "report": (FOLDER,),
    "adapt": (FOLDER,),
    "predict": (FOLDER,),
    "export": (FOLDER,),
    "serve": (FOLDER,),
    "watch": (FOLDER,),
    "completion": SHELLS,
}
"""What stands behind a command."""


class Options(NamedTuple):
    """The options of one command: what may follow each."""

    shared: dict[str, tuple[str, ...]]
    """Whatever stands before them."""
    own: dict[str, dict[str, tuple[str, ...]]]
    """Beside the shared ones, those of `flow run ALGORITHM`, by the algorithm."""


def options_of(command: Command) -> Options:
    """The options of a command as its parser has them."""
    known = {name: dict(_actions(form.kind, form.settings)) for name, form in command.forms().items()}
    known = {name: values for name, values in known.items() if not name or name in NAMES}
    first = next(iter(known.values()))
    shared = {flag: values for flag, values in first.items() if all(flag in other for other in known.values())}
    own = {name: {flag: values for flag, values in other.items() if flag not in shared} for name, other in known.items()}
    return Options(shared, own if len(known) > 1 else {})


def _actions(kind: Any, settings: Mapping[str, Any]) -> Iterable[tuple[str, tuple[str, ...]]]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of get_parser, in whose place tyro has nothing public
        parser = tyro.extras.get_parser(kind, **settings)
    for action in parser._actions:
        for flag in action.option_strings:
            if flag.startswith("--"):
                yield flag, _values(flag, action)


def _values(flag: str, action: Any) -> tuple[str, ...]:
    if action.nargs == 0:
        return (FLAG,)
    if action.choices:
        return tuple(sorted(map(str, action.choices), key=lambda word: (word == "None", word)))  # the parser has a set
    return VALUES.get(flag, (FREE,))


def files(commands: Mapping[str, Command]) -> dict[str, str]:
    """What lies in the file of every shell, of which :func:`flow.cli.script_of` makes its script."""
    known = {name: options_of(command) for name, command in commands.items()}
    return {"bash": _bash(known), "zsh": _ZSH, "fish": _fish(known, commands)}


def scripts(commands: Mapping[str, Command]) -> dict[str, str]:
    """The script of every shell."""
    written = files(commands)
    return written | {"zsh": written["zsh"] + written["bash"]}


def stored(shell: str) -> str:
    """The script of a shell as it is installed."""
    text = script_of(shell)
    assert text is not None, shell
    return text


# --- bash -------------------------------------------------------------------------------------------------------------

_HEAD = """\
# Completion of flow in {shell}. Written by scripts/write_completions.py; do not change it by hand.
"""
_ZSH = """\
#compdef flow
# In zsh by its support for scripts of bash.
autoload -U +X compinit && compinit
autoload -U +X bashcompinit && bashcompinit
"""
_BASH = """\
_flow() {
  local IFS=$'\\n'
  local current="${COMP_WORDS[COMP_CWORD]}" before="${COMP_WORDS[COMP_CWORD-1]}" command="${COMP_WORDS[1]}"
  local algorithm="${COMP_WORDS[2]}" options="" words="" kind=""
  COMPREPLY=()
  if [ "$current" = "=" ]; then  # --option=value comes in three words
    current=""
  elif [ "$before" = "=" ]; then
    before="${COMP_WORDS[COMP_CWORD-2]}"
  fi
  if [ "$COMP_CWORD" -eq 1 ]; then
    COMPREPLY=($(compgen -W "@COMMANDS@" -- "$current"))
    return
  fi
  case "$command:$before" in
@VALUES@
    *)
      case "$command" in
@OPTIONS@
      esac
      [ -n "$words$kind" ] || words="$options"
      case "$current" in
        -*) words="$options" kind="" ;;
      esac
      ;;
  esac
  COMPREPLY=($(compgen -W "$words" -- "$current"))
  case "$kind" in
    FILE)
      compopt -o filenames 2>/dev/null
      COMPREPLY+=($(compgen -f -- "$current"))
      ;;
    FOLDER)
      compopt -o filenames 2>/dev/null
      COMPREPLY+=($(compgen -d -- "$current"))
      ;;
  esac
}
complete -F _flow flow
"""


def _bash(known: Mapping[str, Options]) -> str:
    places: dict[tuple[str, ...], list[str]] = {}
    for command, options in known.items():
        every: dict[str, tuple[str, ...]] = dict(options.shared)
        for own in options.own.values():
            for flag, values in own.items():  # of algorithms with an option of the same name all choices are offered
                every[flag] = tuple(dict.fromkeys((*every.get(flag, ()), *values)))
        for flag, values in every.items():
            if values != (FLAG,):
                places.setdefault(values, []).append(f"{command}:{flag}")
    cases = [f"    {'|'.join(sorted(where))}) {_said(values)} ;;" for values, where in sorted(places.items())]
    lines = []
    for command, options in known.items():
        lines.append(f"        {command})")
        lines.append(f'          options="{_listed(options.shared)}"')
        if options.own:
            lines.append('          case "$algorithm" in')
            for name, own in options.own.items():
                if own:
                    lines.append(f'            {name}) options="$options${{IFS}}{_listed(own)}" ;;')
            default = next(iter(options.own))
            lines += [f'            *) options="$options${{IFS}}{_listed(options.own[default])}" ;;', "          esac"]
        if command in POSITIONALS:
            lines.append(f"          {_said(POSITIONALS[command])}")
        if command != "compare":  # which takes several names
            lines.append('          [ "$COMP_CWORD" -eq 2 ] || words="" kind=""')
        lines.append("          ;;")
    text = _BASH.replace("@COMMANDS@", _listed(known)).replace("@VALUES@", "\n".join(cases))
    return _HEAD.format(shell="bash") + text.replace("@OPTIONS@", "\n".join(lines))


def _listed(words: Iterable[str]) -> str:
    """Words of a list that compgen splits at $IFS, as bash writes them between quotation marks."""
    return "${IFS}".join(words)


def _said(values: tuple[str, ...]) -> str:
    """What the script sets where these values may follow."""
    kind = next((value for value in values if value in (FILE, FOLDER)), "")
    words = [value for value in values if value not in (FLAG, FREE, FILE, FOLDER)]
    return f'words="{_listed(words)}" kind="{kind}"'


# --- fish -------------------------------------------------------------------------------------------------------------


def _fish(known: Mapping[str, Options], commands: Mapping[str, Command]) -> str:
    lines = [_HEAD.format(shell="fish").rstrip("\n"), "complete -c flow -f"]
    for command in known:
        about = _about(commands[command])
        lines.append(f"complete -c flow -n __fish_use_subcommand -a {command} -d '{about}'")
        if command in POSITIONALS:
            lines.append(f"complete -c flow -n '__fish_seen_subcommand_from {command}' {_following(POSITIONALS[command])}")
    for command, options in known.items():
        here = f"__fish_seen_subcommand_from {command}"
        lines += [_fish_option(here, flag, values) for flag, values in options.shared.items()]
        for name, own in options.own.items():
            both = f"{here}; and __fish_seen_subcommand_from {name}"
            lines += [_fish_option(both, flag, values) for flag, values in own.items()]
    return "\n".join(lines) + "\n"


def _fish_option(condition: str, flag: str, values: tuple[str, ...]) -> str:
    needs = "" if values == (FLAG,) else f" -r {_following(values)}"
    return f"complete -c flow -n '{condition}' -l {flag.removeprefix('--')}{needs}".rstrip()


def _following(values: tuple[str, ...]) -> str:
    words = " ".join(value for value in values if value not in (FLAG, FREE, FILE, FOLDER))
    if FILE in values:
        return f"-F -a '{words}'" if words else "-F"
    if FOLDER in values:
        return "-a '(__fish_complete_directories)'"
    return f"-f -a '{words}'" if words else "-f"


def _about(command: Command) -> str:
    """The first line of what `flow --help` says of a command, without its name and arguments."""
    line = command.usage.splitlines()[0].strip()
    while line and (
        line.split(" ")[0].isupper() or line.split(" ")[0].startswith(("[", command.name)) or "]" in line.split(" ")[0]
    ):
        line = line.partition(" ")[2].strip()
    return line.partition(";")[0].partition(":")[0].strip().replace("'", r"\'")
