"""Write the scripts of `flow completion` anew, after a command, an option or an algorithm was added or renamed:
python scripts/write_completions.py"""

from flow.cli import SCRIPTS
from flow.cli.completing import files
from flow.cli.main import COMMANDS

for shell, text in files(COMMANDS).items():
    (SCRIPTS / f"flow.{shell}").write_text(text, encoding="utf-8")
