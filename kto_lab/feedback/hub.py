"""Feedback from a Hugging Face dataset, by name."""

import functools
from collections.abc import Iterator, Sequence
from typing import Literal, Unpack

import numpy as np
from datasets import Dataset, load_dataset
from datasets.exceptions import DatasetNotFoundError, DatasetsError
from huggingface_hub import HfApi

from kto_lab import hub_errors
from kto_lab.errors import LabError
from kto_lab.feedback.layout import FIELDS, Settings, layout
from kto_lab.feedback.preset_fit import fit
from kto_lab.feedback.rows import Raw, in_blocks
from kto_lab.feedback.survey import table_of
from kto_lab.kinds import Seed


def from_hub(
    *,
    name: str,
    subset: str | None,
    split: str,
    revision: str | None,
    data_files: str | Sequence[str] | None,
    format: str | None,
    as_chat: bool,
    min_certainty: float | None,
    bad_rows: Literal["error", "drop"],
    limit: int | None,
    seed: Seed,
    held_out: float,
    **settings: Unpack[Settings],
) -> Dataset:
    """The table of examples of one split of a dataset; see `mapping` for what a row may be.

    As for every source, the held-out prompts are taken from this split by hashing. No code of the dataset is run.

    Args:
        name: the dataset's id on the hub, a local folder, or a format ("json", "parquet") with `data_files`.
        subset: the dataset's configuration.
        split: the split to read, such as "train".
        revision: the commit or tag; None for the newest.
        data_files: the files to read, local or on the hub; None for those that the dataset's card names.
        format: see `file.from_file`.
        as_chat: a prompt that is text becomes one user message.
        min_certainty: see `layout.layout`.
        bad_rows: see `layout.layout`.
        limit: how many rows to draw at random; None for all. A smaller draw is part of a larger one.
        seed: of the draw.
        held_out: share of prompts in the test split, in [0, 1).
        settings: see `layout.layout`.

    Raises:
        LabError: the dataset cannot be reached or read, or a row is malformed.
    """
    chat: Literal["all", "given"] = "all" if as_chat else "given"
    if limit is not None and limit < 1:
        raise LabError(f"feedback.limit is {limit}; it must be at least 1, or null for all rows.")
    files = data_files if data_files is None or isinstance(data_files, str) else list(data_files)
    loaded = _load(name, subset, split=split, revision=revision, data_files=files)
    source = f"{name}[{split}]"
    drawn = list(range(len(loaded)))
    if limit is not None:
        drawn = sorted(np.random.default_rng(seed).permutation(len(loaded))[:limit].tolist())
    raws = functools.partial(_raws, loaded, drawn, source)
    fitted = fit(format, settings, raws, rows_at=None, fields=FIELDS, node="feedback", source=source)
    how = layout(
        **fitted.settings,
        chat=fitted.chat or chat,
        min_certainty=min_certainty,
        bad_rows=bad_rows,
        formats=format is None,
    )
    return table_of(lambda: in_blocks(fitted.raws()), how, source=source, name=name, held_out=held_out)


def _raws(loaded: Dataset, drawn: Sequence[int], source: str) -> Iterator[Raw]:
    for index, row in zip(drawn, loaded.select(drawn), strict=True):
        yield f"{source}, row {index + 1}", row


def _load(
    name: str, subset: str | None, *, split: str, revision: str | None, data_files: str | list[str] | None
) -> Dataset:
    try:
        return load_dataset(name, subset, split=split, revision=revision, data_files=data_files)
    except Exception as error:
        if (why := _explained(error, name)) is None:
            raise
        raise LabError(why) from error


def _explained(error: Exception, name: str) -> str | None:
    """What a person can do about an error of `load_dataset`; None where it is a fault of the code."""
    found: Exception = error
    if isinstance(error, DatasetNotFoundError):
        # datasets drops what the hub has told it, so the hub is asked again.
        try:
            HfApi().auth_check(name, repo_type="dataset")
        except Exception as refused:
            found = refused
    if why := hub_errors.explain(found, name, kind="dataset", key="feedback"):
        return why
    if isinstance(error, FileNotFoundError):
        return (
            f"The dataset {name!r} was not found: {str(error).rstrip('.')}. Check feedback.name "
            "(owner/name), feedback.revision and feedback.data_files."
        )
    if isinstance(error, DatasetsError | OSError | ValueError | RuntimeError):
        reason = str(error).rstrip(".")
        return f"The dataset {name!r} cannot be read: {reason}. Check feedback.subset and feedback.split."
    return None
