"""`kto-lab cache`: what lies in the cache folder, and making room there."""

import math
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from hydra.utils import instantiate
from omegaconf import DictConfig
from rich.table import Table

from kto_lab import console
from kto_lab.configuration import check_keys
from kto_lab.errors import LabError
from kto_lab.feedback.table_cache import MOST, KeptTable, kept_tables
from kto_lab.feedback.table_cache import too_many as too_many_tables
from kto_lab.files import abandoned, cache_dir
from kto_lab.files import remove as remove_tree
from kto_lab.keys import CACHE
from kto_lab.models.store import MEGABYTE, NoStore
from kto_lab.models.store_disk import File, Holding, holdings, remove, too_many

DAY = 24 * 3600


@dataclass(frozen=True)
class Prune:
    """What leaves the reference store, all that one of these names, and the cache folder.

    Attributes:
        scorer: the start of a name in the list; None for none.
        unused_days: what no run has used for this many days, tables included; None for no limit.
        to_mb: what was used longest ago, until so many megabytes are left; None for no limit. Shards written within an
            hour of the newest stay: a job may be at it.
        tables_to_mb: the least recently used tables, until this many megabytes of them are left; None for no limit.
        everything: all of the store, all tables, and what `left_behind` names.
        left_behind: of the cache folder and the store, what killed processes were writing: half a model, say.
    """

    scorer: str | None
    unused_days: float | None
    to_mb: float | None
    tables_to_mb: float | None
    everything: bool
    left_behind: bool

    def __post_init__(self) -> None:
        """Refuse limits that mean nothing."""
        for name in ("unused_days", "to_mb", "tables_to_mb"):
            if (value := getattr(self, name)) is not None and value < 0:
                raise LabError(f"prune.{name} is {value}; it cannot be negative.")

    def leaving(self, found: Sequence[Holding], now: float) -> list[File]:
        """The files that leave.

        Args:
            found: what there is.
            now: seconds since the epoch.

        Raises:
            LabError: no scorer, or more than one, has that name.
        """
        whole = []
        if self.scorer is not None:
            named = [holding for holding in found if holding.path.name.startswith(str(self.scorer))]
            if len(named) != 1:
                raise LabError(
                    f"prune.scorer={self.scorer} names {len(named)} scorers. kto-lab cache lists their names."
                )
            whole += named
        if self.unused_days is not None:
            whole += [holding for holding in found if holding.last_used < now - self.unused_days * DAY]
        if self.everything:
            whole += found
        files = {file.path: file for holding in whole for file in holding.files}
        if self.to_mb is not None:
            rest = [holding for holding in found if holding not in whole]
            files |= {file.path: file for file in too_many(rest, int(self.to_mb * MEGABYTE))}
        return list(files.values())

    def tables_leaving(self, found: Sequence[KeptTable], now: float) -> list[KeptTable]:
        """The tables that leave; arguments as of `leaving`."""
        oldest = (
            math.inf if self.everything else -math.inf if self.unused_days is None else now - self.unused_days * DAY
        )
        rest = [table for table in found if table.last_used >= oldest]
        leaving = [table for table in found if table.last_used < oldest]
        return leaving + ([] if self.tables_to_mb is None else too_many_tables(rest, int(self.tables_to_mb * MEGABYTE)))


def cache(cfg: DictConfig) -> None:
    """List what there is, and remove what `prune` names, after saying what that is.

    Raises:
        LabError: something that a person can mend; see its message.
    """
    check_keys(cfg, CACHE)
    store, prune = instantiate(cfg.reference_store), instantiate(cfg.prune)
    if isinstance(store, NoStore):
        raise LabError("reference_store=none is no store to list. Leave it out, or name a reference_store.folder.")
    now = time.time()
    found = holdings(store.folder)
    show_cache_folder(cache_dir(), store.folder)
    show_store(found, store.folder, store.max_bytes, now)
    tables = kept_tables()
    show_tables(tables, now)
    leaving, scratch = prune.leaving(found, now), left_behind(store.folder)
    tables = prune.tables_leaving(tables, now)
    if scratch and not (prune.left_behind or prune.everything):
        size = sum(map(_size, scratch))
        console.say(
            f"    {_megabytes(size)} MB were left behind by killed processes; prune.left_behind=true removes them"
        )
        scratch = []
    if not leaving and not scratch and not tables:
        return
    console.stage("Pruning", "Log-probabilities and tables that a run needs again are made again.")
    for holding in found:
        if mine := [file for file in leaving if file.path.parent == holding.path]:
            size = sum(file.size for file in mine)
            console.say(
                f"    removing {holding.path}: {len(mine)} of {len(holding.files)} files, {_megabytes(size)} MB"
            )
    freed = remove(leaving)
    for table in tables:
        console.say(f"    removing {table.path}: a table of {table.source or 'a file'}, {_megabytes(table.size)} MB")
        remove_tree(table.path)
        freed += table.size - _size(table.path)
    for path in scratch:
        console.say(f"    removing {path}: left behind by a killed process, {_megabytes(size := _size(path))} MB")
        remove_tree(path)
        freed += size - _size(path)
    console.say(f"    {_megabytes(freed)} MB freed")


def left_behind(store: Path) -> list[Path]:
    """What killed processes have left in the cache folder and the store; what may still be written is not among it."""
    return sorted({path for root in (cache_dir(), store) for path in abandoned(root)})


def show_cache_folder(root: Path, store: Path) -> None:
    """Say what each part of the cache folder takes; what is not the store's may be removed by hand."""
    console.stage("Cache folder", f"{root}: models and downloads are fetched or made again where they are missing.")
    table = console.plain_table("")
    table.add_column("folder", ratio=1, overflow="fold")
    table.add_column("MB", justify="right", no_wrap=True)
    for path in sorted(root.iterdir()) if root.is_dir() else []:
        if path != store:
            table.add_row(path.name, _megabytes(_size(path)))
    table.add_row("the reference store", _megabytes(_size(store)))
    console.show(table)


def show_store(found: Sequence[Holding], root: Path, max_bytes: int, now: float) -> None:
    """List the scorers, the one used last first."""
    console.stage("Reference store", f"{root}: log-probabilities by what gave them.")
    if not found:
        console.say("    It is empty.")
        return
    console.show(_scorers(found, now))
    total = sum(holding.size for holding in found)
    console.say(f"    {_megabytes(total)} of at most {_megabytes(max_bytes)} MB (reference_store.max_mb)")


def show_tables(found: Sequence[KeptTable], now: float) -> None:
    """List the tables of large files, the one used last first."""
    if not found:
        return
    console.stage("Tables", f"{found[0].path.parent}: large files of thumbs, as they were read.")
    table = console.plain_table("")
    table.add_column("table", no_wrap=True)
    table.add_column("file", ratio=1, overflow="fold")
    for heading in ("MB", "last used"):
        table.add_column(heading, justify="right", no_wrap=True)
    for one in found:
        table.add_row(one.path.name, one.source, _megabytes(one.size), _ago(now - one.last_used))
    console.show(table)
    total = sum(one.size for one in found)
    console.say(f"    {_megabytes(total)} of at most {_megabytes(MOST)} MB")


def _scorers(found: Sequence[Holding], now: float) -> Table:
    table = console.plain_table("")
    table.add_column("scorer", no_wrap=True)
    table.add_column("model", ratio=1, overflow="fold")
    for heading in ("entries", "MB", "last used"):
        table.add_column(heading, justify="right", no_wrap=True)
    for holding in found:
        about = holding.about
        words = (about.get("model", "unknown"), about.get("number_format"), about.get("device"))
        table.add_row(
            holding.path.name,
            ", ".join(str(word) for word in words if word),
            f"{holding.entries:,}",
            _megabytes(holding.size),
            _ago(now - holding.last_used),
        )
    return table


def _size(folder: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    total = 0
    for file in folder.rglob("*") if folder.is_dir() else [folder]:
        with suppress(OSError):  # another job has removed it since it was listed
            total += file.stat().st_size if file.is_file() else 0
    return total


def _megabytes(size: int) -> str:
    return f"{size / MEGABYTE:,.1f}"


def _ago(seconds: float) -> str:
    if seconds < DAY:
        return "today"
    return f"{seconds / DAY:,.0f} days ago"
