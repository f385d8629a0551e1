"""The reference store: shared by jobs, corrupt, full, and read-only."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import tests.models.store_worker as store_worker
from kto_lab.errors import LabError
from kto_lab.models import store
from kto_lab.models.store import LogpCache, NoStore, ReferenceStore
from kto_lab.models.store_disk import ABOUT, holdings, shards_in
from kto_lab.sealed import SET_ASIDE
from tests.models.store_worker import SCORER, cache_in, logps, sequences

FOREIGN = replace(SCORER, weights="others")


def worker(*words: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, store_worker.__file__, *words])


def names(logp_cache: LogpCache) -> list[str]:
    return [file.path.name for file in shards_in(logp_cache.folder)]


def test_what_one_run_keeps_another_finds(tmp_path: Path) -> None:
    cache_in(tmp_path).put(sequences(5), logps(5))
    other = cache_in(tmp_path)
    assert np.array_equal(other.lookup(sequences(5)), logps(5))
    assert np.isnan(other.lookup(sequences(2, first=5))).all() and len(other.lookup([])) == 0
    (holding,) = holdings(tmp_path)
    assert holding.path.name == SCORER.key and holding.entries == 5 and holding.about["model"] == "a model"


def test_a_handle_sees_what_others_write_later(tmp_path: Path) -> None:
    early, late = cache_in(tmp_path), cache_in(tmp_path)
    assert np.isnan(early.lookup(sequences(3))).all()
    late.put(sequences(3), logps(3))
    assert np.array_equal(early.lookup(sequences(3)), logps(3))
    early.put(sequences(3), logps(3))
    assert len(names(early)) == 1


@pytest.mark.parametrize("field", ["weights", "config", "number_format", "device", "software", "code"])
def test_another_scorer_finds_nothing(tmp_path: Path, field: str) -> None:
    cache_in(tmp_path).put(sequences(3), logps(3))
    other = replace(SCORER, **{field: "other"})  # type: ignore[arg-type]
    assert np.isnan(cache_in(tmp_path, scorer=other).lookup(sequences(3))).all()
    assert replace(SCORER, model="another name").key == SCORER.key


def test_what_is_not_finite_is_never_kept(tmp_path: Path) -> None:
    logp_cache = cache_in(tmp_path)
    logp_cache.put(sequences(4), np.array([-1, np.nan, -np.inf, np.inf], dtype=np.float32))
    for reader in (logp_cache, cache_in(tmp_path)):
        assert np.isnan(reader.lookup(sequences(4))).tolist() == [False, True, True, True]


def test_two_processes_write_and_merge_at_once(tmp_path: Path) -> None:
    processes = [worker("many", str(tmp_path), str(first)) for first in (0, 200)]
    assert [process.wait(120) for process in processes] == [0, 0]
    reader = cache_in(tmp_path)
    assert np.array_equal(reader.lookup(sequences(600)), logps(600))
    assert len(names(reader)) <= 2 * store.MANY_SHARDS and not [name for name in names(reader) if SET_ASIDE in name]


def test_a_process_that_is_killed_while_writing_loses_that_shard_alone(tmp_path: Path) -> None:
    assert worker("die", str(tmp_path)).wait(120) == -9
    (scratch,) = (path for path in (tmp_path / SCORER.key).iterdir() if path.is_dir())
    logp_cache = cache_in(tmp_path)
    found = logp_cache.lookup(sequences(20))
    assert np.array_equal(found[:10], logps(10)) and np.isnan(found[10:]).all()
    logp_cache.put(sequences(10, 10), logps(10, 10))
    assert np.array_equal(cache_in(tmp_path).lookup(sequences(20)), logps(20))
    logp_cache.settle()
    assert not scratch.exists()


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def foreign(path: Path) -> None:
    other = cache_in(path.parent.parent, scorer=FOREIGN)
    other.put(sequences(5), logps(5) * 2)
    (file,) = shards_in(other.folder)
    path.write_bytes(file.path.read_bytes())


@pytest.mark.parametrize("damage", [flipped, cut, foreign])
def test_a_shard_that_is_not_right_is_set_aside_once_and_computed_again(
    tmp_path: Path, damage: object, capsys: pytest.CaptureFixture[str]
) -> None:
    cache_in(tmp_path).put(sequences(5), logps(5))
    (name,) = names(cache_in(tmp_path))
    damage(tmp_path / SCORER.key / name)  # type: ignore[operator]
    logp_cache = cache_in(tmp_path)
    assert np.isnan(logp_cache.lookup(sequences(5))).all()
    assert name in (said := capsys.readouterr().out) and said.count("\n") == 1 and "computed again" in said
    assert names(logp_cache) == [name + SET_ASIDE]
    logp_cache.put(sequences(5), logps(5))
    assert np.array_equal(cache_in(tmp_path).lookup(sequences(5)), logps(5))
    assert names(logp_cache) == [name, name + SET_ASIDE] and not capsys.readouterr().out


def test_many_small_shards_become_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "MANY_SHARDS", 4)
    logp_cache, reader = cache_in(tmp_path), cache_in(tmp_path)
    for first in range(5):
        logp_cache.put(sequences(1, first), logps(1, first))
        reader.lookup(sequences(1))
    logp_cache.settle()
    assert len(names(logp_cache)) == 1
    for each in (logp_cache, reader, cache_in(tmp_path)):
        assert np.array_equal(each.lookup(sequences(5)), logps(5))


def test_a_shard_that_goes_between_listing_and_reading_is_found_where_it_went(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = cache_in(tmp_path)
    for first in range(3):
        writer.put(sequences(1, first), logps(1, first))
    monkeypatch.setattr(store, "MANY_SHARDS", 2)
    read = store.read_shard

    def merged_meanwhile(path: Path, scorer: str) -> object:
        monkeypatch.setattr(store, "read_shard", read)
        writer.settle()
        return read(path, scorer)

    monkeypatch.setattr(store, "read_shard", merged_meanwhile)
    assert np.array_equal(cache_in(tmp_path).lookup(sequences(3)), logps(3))


def test_the_store_keeps_within_its_bound_and_what_was_just_written(tmp_path: Path) -> None:
    old, late = cache_in(tmp_path, scorer=FOREIGN), cache_in(tmp_path, max_mb=1)
    old.put(sequences(30_000), logps(30_000))
    for file in shards_in(old.folder):
        os.utime(file.path, (1e9, 1e9))
    os.utime(old.folder / ABOUT, (1e9, 1e9))
    late.put(sequences(60_000), logps(60_000))
    late.settle()
    assert [holding.path.name for holding in holdings(tmp_path)] == [SCORER.key]
    assert holdings(tmp_path)[0].size > late.max_bytes
    # In memory it still is, and can be kept again.
    assert np.array_equal(old.lookup(sequences(2)), logps(2))


def test_a_disk_that_refuses_is_said_once_and_nothing_is_lost(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("no folder can be made in it")
    logp_cache = cache_in(tmp_path / "file" / "store")
    assert np.isnan(logp_cache.lookup(sequences(4))).all()
    for first in range(4):
        logp_cache.put(sequences(1, first), logps(1, first))
    logp_cache.settle()
    said = capsys.readouterr().out
    assert said.count("warning") == 1 and "Not a directory" in said and "goes on" in said
    assert np.array_equal(logp_cache.lookup(sequences(4)), logps(4))


def test_what_can_be_read_and_not_written_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cache_in(tmp_path).put(sequences(2), logps(2))

    def refuse(*_: object, **__: object) -> None:
        raise OSError(30, "Read-only file system")

    for name in ("tempfile.mkdtemp", "os.utime"):
        monkeypatch.setattr(name, refuse)
    logp_cache = cache_in(tmp_path)
    assert np.array_equal(logp_cache.lookup(sequences(2)), logps(2))
    logp_cache.put(sequences(2, 2), logps(2, 2))
    assert "Read-only file system" in capsys.readouterr().out
    assert np.array_equal(logp_cache.lookup(sequences(4)), logps(4)) and len(names(logp_cache)) == 1


def test_where_it_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KTO_LAB_CACHE", str(tmp_path))
    assert ReferenceStore(None, 1).folder == tmp_path / "reference" and not list(tmp_path.iterdir())
    assert NoStore().logp_cache(SCORER) is None
    with pytest.raises(LabError, match="max_mb is 0"):
        ReferenceStore(None, 0)
