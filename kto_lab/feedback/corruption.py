"""Controlled damage to the training labels; evaluation keeps reading `desirable_clean`."""

from datasets import Dataset


def unchanged(table: Dataset) -> Dataset:
    """The training rows as they are."""
    return table
