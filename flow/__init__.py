"""Federated learning with Flow: per-instance routing between a global and a local expert."""
