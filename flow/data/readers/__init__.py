"""Readers of published formats and of what is at hand: one file each, which ends with a record for the registry."""
