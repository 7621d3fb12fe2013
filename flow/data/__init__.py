"""Data sources. Whatever the source, `load` gives the same: clients with texts, split by client and by time."""

from flow.data.loading import load, prepared_folder
from flow.data.options import DataOptions
from flow.data.population import Client, Population, Sequences, Vocabulary

__all__ = ["Client", "DataOptions", "Population", "Sequences", "Vocabulary", "load", "prepared_folder"]
