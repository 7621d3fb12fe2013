"""Data sources. Whatever the source, `load` gives the same: clients with texts, split by client and by time."""

from flow.data.loading import is_file, least_size, load, located, opened, placed, prepared_folder
from flow.data.options import DataOptions
from flow.data.population import Client, Population, Sequences, Vocabulary
from flow.data.validation import validated

__all__ = [
    "Client",
    "DataOptions",
    "Population",
    "Sequences",
    "Vocabulary",
    "is_file",
    "least_size",
    "load",
    "located",
    "opened",
    "placed",
    "prepared_folder",
    "validated",
]
