"""What a user can put right: the command line prints the message alone and exits with code 2."""

from __future__ import annotations


class UserError(ValueError):
    """A wrong option, file or folder; the message names it, its value, the rule and the remedy."""


class Diverged(UserError):
    """Training left the finite numbers."""
