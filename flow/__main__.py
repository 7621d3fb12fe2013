"""``python -m flow``: the same as the command ``flow``."""

import sys

from flow.cli.main import main

sys.exit(main())
