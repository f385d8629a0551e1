"""Feedback from a Hugging Face dataset, by name."""

import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from datasets import Dataset, load_dataset
from datasets.exceptions import DatasetsError

from kto_lab.errors import LabError
from kto_lab.feedback.mapping import layout
from kto_lab.feedback.survey import table_of


def from_hub(
    *,
    name: str,
    subset: str | None,
    split: str,
    revision: str | None,
    data_files: str | Sequence[str] | None,
    columns: Mapping[str, str | None],
    labels: Mapping[Any, bool | None] | None,
    up_from: float | None,
    down_to: float | None,
    timezone: str,
    day_first: bool | None,
    as_chat: bool,
    constant_prompt: str | None,
    lists: Literal["turns", "alternatives", "text"] | None,
    ignore: Sequence[str],
    min_certainty: float | None,
    cut_at: int | None,
    bad_rows: Literal["error", "drop"],
    limit: int | None,
    seed: int,
    held_out: float,
) -> Dataset:
    """The table of examples of one split of a dataset; see `mapping` for what a row may be.

    The held-out prompts are taken from this split by hashing, as for every source. No code of the dataset is run.

    Args:
        name: the dataset's id on the hub, a local folder, or a format ("json", "parquet") with `data_files`.
        subset: the dataset's configuration.
        split: the split to read, such as "train".
        revision: the commit or tag; None for the newest.
        data_files: files of the dataset to read, local or on the hub; None for those that its card names.
        columns: see `mapping.layout`.
        labels: see `mapping.layout`.
        up_from: see `mapping.layout`.
        down_to: see `mapping.layout`.
        as_chat: a prompt that is text becomes one user message.
        constant_prompt: see `mapping.layout`.
        lists: see `mapping.layout`.
        ignore: see `mapping.layout`.
        timezone: see `mapping.with_times`.
        day_first: see `mapping.with_times`.
        min_certainty: see `mapping.layout`.
        cut_at: see `mapping.layout`.
        bad_rows: see `mapping.layout`.
        limit: how many rows to draw at random; None for all. A smaller draw is part of a larger one.
        seed: of the draw.
        held_out: share of prompts in the test split, in [0, 1).

    Raises:
        LabError: the dataset cannot be reached or read, or a row is malformed.
    """
    how = layout(
        columns,
        labels=labels,
        up_from=up_from,
        down_to=down_to,
        chat="all" if as_chat else "given",
        constant_prompt=constant_prompt,
        lists=lists,
        ignore=ignore,
        min_certainty=min_certainty,
        cut_at=cut_at,
        bad_rows=bad_rows,
    )
    if limit is not None and limit < 1:
        raise LabError(f"feedback.limit is {limit}; it must be at least 1, or null for all rows.")
    files = data_files if data_files is None or isinstance(data_files, str) else list(data_files)
    loaded = _load(name, subset, split=split, revision=revision, data_files=files)
    source = f"{name}[{split}]"
    drawn = list(range(len(loaded)))
    if limit is not None:
        drawn = sorted(np.random.default_rng(seed).permutation(len(loaded))[:limit].tolist())
    raws = functools.partial(_raws, loaded, drawn, source)
    return table_of(raws, how, source=source, name=name, timezone=timezone, day_first=day_first, held_out=held_out)


def _raws(loaded: Dataset, drawn: Sequence[int], source: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for index, row in zip(drawn, loaded.select(drawn), strict=True):
        yield f"{source}, row {index + 1}", row


def _load(
    name: str, subset: str | None, *, split: str, revision: str | None, data_files: str | list[str] | None
) -> Dataset:
    try:
        return load_dataset(name, subset, split=split, revision=revision, data_files=data_files)
    except ConnectionError as error:
        raise LabError(
            f"The dataset {name!r} cannot be fetched: {error}. Check the network and that HF_HUB_OFFLINE is not set. "
            "On a machine without network, copy the dataset there and give its folder as feedback.name, or use a file "
            "of it with feedback=file."
        ) from error
    except FileNotFoundError as error:
        raise LabError(
            f"The dataset {name!r} was not found: {str(error).rstrip('.')}. Check feedback.name "
            "(owner/name), feedback.revision and feedback.data_files; for a private or gated dataset run "
            "`hf auth login` first."
        ) from error
    except (DatasetsError, OSError, ValueError, RuntimeError) as error:
        reason = str(error).rstrip(".")
        raise LabError(
            f"The dataset {name!r} cannot be read: {reason}. Check feedback.subset and feedback.split."
        ) from error
