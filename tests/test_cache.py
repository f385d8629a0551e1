"""`kto-lab cache`: the list, and what leaves."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from kto_lab.cache import cache
from kto_lab.errors import LabError
from kto_lab.feedback import table_cache
from kto_lab.files import scratch_beside
from kto_lab.models.scorer import Scorer
from kto_lab.models.sequences import Tokens
from kto_lab.models.store import ReferenceStore
from kto_lab.models.store_disk import ABOUT, holdings, shards_in
from tests.feedback.reading import read
from tests.small_runs import composed

SCORERS = [Scorer(name, name, "config", "32-true", "cpu AVX2", "torch", "code") for name in ("old model", "new model")]


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder with a download, and a store with two scorers; the old one was last used ages ago."""
    monkeypatch.setenv("KTO_LAB_CACHE", str(tmp_path))
    (tmp_path / "downloads").mkdir()
    (tmp_path / "downloads" / "large.whl").write_bytes(bytes(2_500_000))
    for scorer in SCORERS:
        logp_cache = ReferenceStore(None, 10).logp_cache(scorer)
        assert logp_cache is not None
        logp_cache.put([Tokens((1,), (number,)) for number in range(2000)], np.full(2000, -1, dtype="<f4"))
    old = tmp_path / "reference" / SCORERS[0].key
    for path in (old / ABOUT, *(file.path for file in shards_in(old))):
        os.utime(path, (1e9, 1e9))
    return tmp_path


def run(*words: str) -> None:
    cache(composed(list(words), name="cache"))


def left(root: Path) -> list[str]:
    return [holding.about["model"] for holding in holdings(root / "reference")]


def test_it_lists_and_removes_nothing(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run()
    said = capsys.readouterr().out
    assert left(root) == ["new model", "old model"] and "removing" not in said
    lines = {line.split()[0]: " ".join(line.split()) for line in said.splitlines() if line.strip()}
    assert lines["downloads"] == "downloads 2.5"
    assert lines[SCORERS[1].key].startswith(f"{SCORERS[1].key} new model, 32-true, cpu")
    assert lines[SCORERS[1].key].endswith("2,000 0.0 today")
    assert "days ago" in lines[SCORERS[0].key] and "0.1 of at most 1,000.0 MB" in said


@pytest.mark.parametrize(
    ("words", "models"),
    [
        (["prune.unused_days=30"], ["new model"]),
        (["prune.to_mb=0.05"], ["new model"]),
        (["prune.to_mb=1"], ["new model", "old model"]),
        ([f"prune.scorer={SCORERS[1].key[:6]}"], ["old model"]),
        (["prune.everything=true"], []),
        # Another job may just have written it.
        (["prune.to_mb=0"], ["new model"]),
    ],
    ids=str,
)
def test_what_is_named_leaves_and_is_said_before(
    root: Path, words: list[str], models: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    run(*words)
    assert left(root) == models
    said = capsys.readouterr().out
    gone = [scorer for scorer in SCORERS if scorer.model not in models]
    assert all(f"removing {root / 'reference' / scorer.key}: 1 of 1 files" in said for scorer in gone)
    assert ("MB freed" in said) == bool(gone)
    assert (root / "downloads" / "large.whl").exists()


def test_what_killed_processes_left_is_said_and_removed_on_demand(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with scratch_beside(root / "models" / "smollm2") as half:
        (half / "smollm2").mkdir()
        (half / "smollm2" / "weights").write_bytes(bytes(1_200_000))
        run("prune.left_behind=true")
        assert half.exists()
        here, pid, _ = half.name.split(".")[2].split("-")
        dead = half.with_name(f".smollm2.{here}-{pid}-1.abcdefgh")
        half.rename(dead)
    run("prune.to_mb=1")
    assert "1.2 MB were left behind by killed processes; prune.left_behind=true removes them" in capsys.readouterr().out
    run("prune.left_behind=true")
    assert not dead.exists() and len(left(root)) == 2
    said = capsys.readouterr().out
    assert f"removing {dead}: left behind by a killed process, 1.2 MB" in said and "1.2 MB freed" in said
    dead.mkdir()
    run("prune.everything=true")
    assert not dead.exists() and not left(root)


@pytest.mark.parametrize(
    ("words", "files"),
    [
        ([], ["new.jsonl", "old.jsonl"]),
        (["prune.unused_days=30"], ["new.jsonl"]),
        (["prune.tables_to_mb=1000"], ["new.jsonl", "old.jsonl"]),
        (["prune.tables_to_mb=0"], []),
        (["prune.everything=true"], []),
    ],
    ids=str,
)
def test_tables_of_files_are_listed_and_leave(
    root: Path,
    words: list[str],
    files: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(table_cache, "LEAST", 0)
    for name in ("old.jsonl", "new.jsonl"):
        (root / name).write_text('{"prompt": "Say hi.", "completion": "Hi.", "label": true}\n')
        read(root / name)
    old = next(table.path for table in table_cache.kept_tables() if table.source == "old.jsonl")
    os.utime(old, (1e9, 1e9))
    run(*words)
    said = capsys.readouterr().out
    assert [table.source for table in table_cache.kept_tables()] == files
    lines = {line.split()[0]: line.split() for line in said.splitlines() if line.strip()}
    assert lines[old.name][1:] == ["old.jsonl", "0.0", *lines[old.name][3:5], "ago"]
    assert said.count("a table of old.jsonl, 0.0 MB") == (files.count("old.jsonl") == 0)


def test_a_store_elsewhere_and_no_store(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(f"reference_store.folder={root / 'none'}", "prune.everything=true")
    assert "It is empty" in capsys.readouterr().out and len(left(root)) == 2
    with pytest.raises(LabError, match="no store to list"):
        run("reference_store=none")


def test_a_name_that_fits_none_or_several_removes_nothing(root: Path) -> None:
    for name in ("x", "''"):
        with pytest.raises(LabError, match=r"names [02] scorers"):
            run(f"prune.scorer={name}", "prune.everything=true")
    with pytest.raises(Exception, match="cannot be negative"):
        run("prune.to_mb=-1")
    assert len(left(root)) == 2


def test_models_are_told_apart_by_more_than_their_names() -> None:
    assert replace(SCORERS[0], model="new model").key == SCORERS[0].key != SCORERS[1].key
