"""What leaves the reference store first, and that nothing else is ever removed."""

import os
from pathlib import Path

import pytest

from kto_lab.models.store_disk import ABOUT, File, holdings, remove, too_many
from kto_lab.models.store_shards import ENTRY_BYTES, HEADER
from kto_lab.sealed import SET_ASIDE

DAY = 24 * 3600
NOW = 1e9


def shard(folder: Path, number: int, *, size: int = 1000, days: float = 10, suffix: str = "") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{number:032x}.logps{suffix}"
    path.write_bytes(bytes(size))
    os.utime(path, (NOW - days * DAY,) * 2)
    return path


def used(folder: Path, days: float) -> None:
    (folder / ABOUT).write_text('{"model": "mine"}')
    os.utime(folder / ABOUT, (NOW - days * DAY,) * 2)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two scorers: the second was not used for longer; the newest shard is the first's."""
    for name, written, last in (("a" * 16, 14, 1), ("b" * 16, 20, 15)):
        for number in range(3):
            shard(tmp_path / name, number, days=written - number)
        used(tmp_path / name, last)
    return tmp_path


def leaving(root: Path, max_bytes: int) -> list[str]:
    return [f"{file.path.parent.name[0]}{int(file.path.stem[:32], 16)}" for file in too_many(holdings(root), max_bytes)]


def test_what_was_used_longest_ago_leaves_first_and_no_more_than_must(root: Path) -> None:
    assert leaving(root, 6000) == []
    assert leaving(root, 5999) == ["b0"]
    assert leaving(root, 2000) == ["b0", "b1", "b2", "a0"]


def test_what_was_set_aside_leaves_before_all_else(root: Path) -> None:
    shard(root / ("a" * 16), 9, days=0, suffix=SET_ASIDE)
    assert leaving(root, 6500) == ["a9"]
    assert holdings(root)[0].entries == 3 * ((1000 - HEADER.size) // ENTRY_BYTES)


def test_what_was_just_written_stays(root: Path) -> None:
    for number, minutes in ((7, 0), (8, 59), (9, 61)):
        shard(root / ("b" * 16), number, days=minutes / 60 / 24)
    os.utime(root / ("b" * 16) / ABOUT, (NOW - 20 * DAY,) * 2)
    assert leaving(root, 0) == ["a0", "a1", "a2", "b0", "b1", "b2", "b9"]


def test_the_list_is_by_last_use_and_knows_what_it_is_of(root: Path) -> None:
    shard(root / ("c" * 16), 0, days=12)
    found = holdings(root)
    assert [holding.path.name[0] for holding in found] == ["a", "c", "b"]
    assert found[0].about == {"model": "mine"} and found[1].about == {}
    (root / ("a" * 16) / ABOUT).write_text("[broken")
    assert holdings(root)[0].about == {}
    assert holdings(root / "none") == []


def test_only_what_the_store_wrote_is_listed_and_removed(root: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    kept = shard(elsewhere, 1)
    (root / ("d" * 16)).symlink_to(elsewhere, target_is_directory=True)
    stranger = root / ("a" * 16) / "notes.txt"
    stranger.write_text("mine")
    (root / "models").mkdir()
    found = holdings(root)
    assert [holding.path.name[0] for holding in found] == ["a", "b"]
    assert remove([file for holding in found for file in holding.files]) == 6000
    assert sorted(path.name for path in root.iterdir()) == ["a" * 16, "d" * 16, "elsewhere", "models"]
    assert kept.exists() and stranger.exists()


def test_a_file_that_has_gone_is_no_error(root: Path) -> None:
    gone = File(root / ("e" * 16) / "gone.logps", 10, NOW)
    assert remove([gone]) == 0
