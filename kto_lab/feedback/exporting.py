"""The command `kto-lab feedback export`: a table of examples as other tools read feedback, a file for each split."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

from datasets import Dataset
from hydra.utils import instantiate
from omegaconf import DictConfig

from kto_lab import narration
from kto_lab.configuration import check_keys
from kto_lab.errors import LabError
from kto_lab.feedback.exporting_formats import BESIDE, FORMATS, Example, Format, Row, kept_beside
from kto_lab.feedback.pairs import make_pairs
from kto_lab.feedback.table import is_chat, of_split, pair_ids_of
from kto_lab.files import atomic_path, write_json
from kto_lab.keys import EXPORT

Rows = Literal["thumbs", "pairs"]


def export_feedback(cfg: DictConfig) -> Path:
    """Write the table into a new folder, say what is in it, and return the folder.

    Raises:
        LabError: the folder exists, or the format has no such rows or no place for what an example holds.
    """
    check_keys(cfg, EXPORT)
    target = Path(cfg.output)
    if target.exists():
        raise LabError(f"{target} exists. Choose another output, or remove it to export again.")
    format = FORMATS[cfg.format]
    narration.stage("Feedback", "Thumbs become one table; held-out prompts are set apart by a hash.")
    table: Dataset = instantiate(cfg.feedback)
    rows = rows_of(cfg.format, cfg.rows, table)
    narration.stage("Export", f"Every split as {rows}, each a file of its own.")
    chat = is_chat(table)
    if format.chat and not chat:
        narration.say(f"    prompts are text, and {cfg.format} has chat messages: each becomes a user message")
    if (cut := len(table) - sum(table["finished"][:])) and not format.beside:
        narration.say(f"    {cut} answers were cut, which {cfg.format} cannot say: they look like whole ones")
    with atomic_path(target) as folder:
        files = _write(table, folder, format, rows, seed=cfg.seed)
        for name, content in (format.further(files, rows == "pairs") if format.further else {}).items():
            write_json(folder / name, content)
    narration.say(f"    written to {target}")
    return target


def rows_of(name: str, rows: Rows | None, table: Dataset) -> Rows:
    """What a table is written as: pairs where it is asked for, or where all of its examples are halves of given ones.

    Raises:
        LabError: the format has no such rows.
    """
    format = FORMATS[name]
    if rows is None:
        given = pair_ids_of(table)
        paired = format.thumb is None or (format.pair is not None and bool(given) and None not in given)
        return "pairs" if paired else "thumbs"
    if (format.pair if rows == "pairs" else format.thumb) is None:
        raise LabError(f"format={name} has no {rows}. Leave rows=null, or choose another format.")
    return rows


def _write(table: Dataset, folder: Path, format: Format, rows: Rows, *, seed: int) -> dict[str, str]:
    """Write the file of each split that has rows, and return its name by split.

    Raises:
        LabError: there are no pairs in any split.
    """
    folder.mkdir()
    beside = kept_beside({name: table[name][:] for name in BESIDE}) if format.beside else []
    files: dict[str, str] = {}
    none: LabError | None = None
    for split in ("train", "test"):
        part = of_split(table, split)
        if not len(part):
            continue
        try:
            made, count = (
                _pairs(part, format, beside, seed) if rows == "pairs" else (_thumbs(part, format, beside), len(part))
            )
        except LabError as error:
            none = error
            narration.say(f"    {split:<5}  no pair in {len(part)} examples")
            continue
        files[split] = f"{split}{format.suffix}"
        format.write_rows(folder / files[split], made)
        used = f", of {len(part)} examples" if rows == "pairs" else ""
        narration.say(f"    {split:<5}  {count} {rows}{used}: {files[split]}")
    if not files and none is not None:
        raise none
    return files


def _thumbs(part: Dataset, format: Format, beside: list[str]) -> Iterator[Row]:
    assert format.thumb is not None
    for example in _examples(part, format):
        yield {**{name: example[name] for name in beside}, **format.thumb(example)}


def _pairs(part: Dataset, format: Format, beside: list[str], seed: int) -> tuple[Iterator[Row], int]:
    """The pairs that the losses of pairs would see with this seed, and how many they are."""
    pairs = make_pairs(part, seed=seed)
    assert format.pair is not None
    pair = format.pair

    def made() -> Iterator[Row]:
        # What both halves say alike.
        shared = [name for name in beside if name not in ("score", "finished")]
        chosen, rejected = (_examples(part.select(side.tolist()), format) for side in pairs.T)
        for good, bad in zip(chosen, rejected, strict=True):
            yield {**{name: good[name] for name in shared if good[name] == bad[name]}, **pair(good, bad)}

    return made(), len(pairs)


def _examples(part: Iterable[Any], format: Format) -> Iterator[Example]:
    for example in part:
        if format.chat and isinstance(example["prompt"], str):
            yield {**example, "prompt": [{"role": "user", "content": example["prompt"]}]}
        else:
            yield example
