"""Damage in place to every file that a command reads back: the result of an undisturbed one, or an error that names it.

The files are found by listing the folders, and each must match one of the patterns that are given for its folder, so
that a new kind of file cannot be forgotten.
"""

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from safetensors.torch import load_file

from kto_lab.errors import LabError
from kto_lab.feedback import table_cache
from kto_lab.models import load
from kto_lab.models.tiny import byte_tokenizer, random_llama
from kto_lab.reports.report import report
from kto_lab.runs import identity
from kto_lab.runs.command import train
from kto_lab.runs.evaluate import evaluate
from kto_lab.runs.record import read_record
from kto_lab.training.callbacks import METRICS
from kto_lab.training.module import AlignmentModule
from tests.damage import DAMAGES
from tests.reports.study_folders import fail, grid, write_study
from tests.reports.test_answers import run as write_answered_run
from tests.small_runs import composed, overrides, run

WORDS = (
    "evaluation.prompts=4",
    "evaluation.max_new_tokens=4",
    "evaluation.reward_examples=8",
    "optimization.max_steps=4",
    "optimization.checkpoint_every=2",
)
# What becomes of a command that meets a damaged file of a kind.
SAME = "ends as an undisturbed one, without a word: it does not read this file"
MENDED = "ends as an undisturbed one, and says that the file is damaged"
REFUSED = "ends with an error that names the file as damaged"
EITHER = "ends with an error that names the file as damaged, or does not read it and ends as an undisturbed one"
TOLD = "names the file as damaged in what it writes"

# A run that was stopped on its way, resumed.
UNFINISHED = {
    "config.yaml": REFUSED,
    "run.json": REFUSED,
    "checkpoints/*.ckpt": MENDED,
    "evaluation/base.json": MENDED,
    "metrics.csv": SAME,
}
# A finished run, evaluated again.
FINISHED = {
    "record.json": REFUSED,
    "config.yaml": REFUSED,
    "policy/*": REFUSED,
    "run.json": SAME,
    "metrics.csv": SAME,
    "curves.png": SAME,
    "evaluation/*.json": SAME,
}
# The runs and the study's file that a report is written from.
STUDY = {
    "studies/noise/study.json": REFUSED,
    "cells/*/record.json": TOLD,
    "cells/*/failure.json": TOLD,
    # A few answers of one seed are shown.
    "cells/*/evaluation/trained.json": EITHER,
    "cells/*/evaluation/base.json": EITHER,
    "cells/*/evaluation/scores.json": REFUSED,
}
# The cache folder, read by another run.
CACHE = {
    "models/gguf-*/*": MENDED,
    "reference/*/*.logps": MENDED,
    "reference/*/scorer.json": SAME,
    "hashes/*": MENDED,
    "tables/*": MENDED,
}
# One file of each pattern with a bit flipped; and every file with each damage, which takes minutes.
EACH = pytest.mark.parametrize(
    ("damage", "every"),
    [("flip", False), *(pytest.param(name, True, marks=pytest.mark.slow) for name in DAMAGES)],
)


# Of `record_property`: what a test tells of itself.
Tell: TypeAlias = Callable[[str, object], None]


class StopError(Exception):
    """What stops a run in these tests."""


def kind(expected: Mapping[str, str], name: str) -> str:
    """The pattern that a file's name matches."""
    found = [pattern for pattern in expected if fnmatch(name, pattern)]
    assert len(found) == 1, f"{name} is a file of a new kind: say what becomes of a command that finds it damaged"
    return found[0]


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def check_each(
    folder: Path,
    expected: Mapping[str, str],
    damage: str,
    every: bool,
    place: Path,
    read: Callable[[Path], Any],
    capsys: pytest.CaptureFixture[str],
    tell: Tell,
    what: str,
) -> None:
    """Damage a file of a folder in a copy, let `read` meet it, and compare what it returns with an undisturbed one.

    Args:
        folder: with the files.
        expected: pattern of their names to what is to happen.
        damage: one of `DAMAGES`.
        every: damage every file, not one of each pattern.
        place: for the copies.
        read: what is tried in a copy, and returns all that it ends with.
        capsys: of the test.
        tell: takes what was tried, how often, and how often it held.
        what: was tried.
    """
    tell("what", what)
    undisturbed = read(Path(shutil.copytree(folder, place / "undisturbed")))
    met, refused = set(), set()
    tried = 0
    for number, name in enumerate(files(folder)):
        pattern, short = kind(expected, name), Path(name).name
        if pattern in met and not every:
            continue
        tell("held", tried)
        tried += 1
        tell("tried", tried)
        copy = Path(shutil.copytree(folder, place / str(number)))
        whole = (copy / name).read_bytes()
        DAMAGES[damage](copy / name)
        assert (copy / name).read_bytes() != whole, name
        outcome = expected[pattern]
        met.add(pattern)
        capsys.readouterr()
        try:
            found = read(copy)
        except LabError as error:
            assert outcome in (REFUSED, EITHER), (name, str(error))
            assert f"{short} is damaged" in str(error), name
            refused.add(pattern)
            continue
        said = " ".join(capsys.readouterr().out.split())
        if outcome == TOLD:
            assert f"{short} is damaged" in json.dumps(found), name
            continue
        assert found == undisturbed, name
        words = said.count(f"{short} is damaged") + said.count(f"{short} is left out")
        assert words == (outcome == MENDED), (name, said)
    tell("held", tried)
    assert met == set(expected), "patterns without a file"
    assert refused == {pattern for pattern, outcome in expected.items() if outcome in (REFUSED, EITHER)}


def ended(folder: Path) -> dict[str, Any]:
    """All that a run ends with, but its times."""
    record = read_record(folder)
    weights = load_file(folder / "policy" / "model.safetensors")
    return {
        "metrics": record["metrics"],
        "rows": (folder / METRICS).read_text(),
        "weights": {name: value.tolist() for name, value in weights.items()},
    }


def stop_at(patch: pytest.MonkeyPatch, step: int) -> None:
    """Stop in the middle of a step (from 1)."""
    whole = AlignmentModule.reference_point

    def stopping(self: AlignmentModule, batch: Any, ahead: Any = None) -> Any:
        if batch.number + 1 == step:
            raise StopError
        return whole(self, batch, ahead)

    patch.setattr(AlignmentModule, "reference_point", stopping)


@pytest.fixture(scope="session")
def unfinished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run, `run`, that was stopped in its last step."""
    folder = tmp_path_factory.mktemp("unfinished")
    with pytest.MonkeyPatch.context() as patch:
        stop_at(patch, 4)
        with pytest.raises(StopError):
            run(folder, *WORDS)
    return folder


@pytest.fixture(scope="session")
def finished(unfinished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, finished."""
    folder = tmp_path_factory.mktemp("finished")
    shutil.copytree(unfinished, folder, dirs_exist_ok=True)
    resumed(folder / "run", unfinished)
    return folder


def resumed(folder: Path, home: Path) -> Path:
    """Go on with a copy of the run of a folder, on the examples and the store of that."""
    own = [f"run_dir={folder}", f"feedback.path={home / 'thumbs.jsonl'}", f"reference_store.folder={home / 'store'}"]
    return run(home, *WORDS, *own)


@EACH
def test_a_run_is_resumed(
    unfinished: Path,
    damage: str,
    every: bool,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    record_property: Tell,
) -> None:
    def read(copy: Path) -> dict[str, Any]:
        return ended(resumed(copy, unfinished))

    check_each(
        unfinished / "run",
        UNFINISHED,
        damage,
        every,
        tmp_path,
        read,
        capsys,
        record_property,
        "`kto-lab train` goes on with an unfinished run, a file of which is damaged",
    )


def test_the_newest_checkpoints_are_all_damaged(
    unfinished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], record_property: Tell
) -> None:
    record_property("what", "`kto-lab train` goes on with a run all of whose checkpoints are damaged")
    copy = Path(shutil.copytree(unfinished / "run", tmp_path / "run"))
    undisturbed = ended(resumed(Path(shutil.copytree(unfinished / "run", tmp_path / "other")), unfinished))
    found = list((copy / "checkpoints").glob("*.ckpt"))
    assert len(found) == 2
    for file in found:
        DAMAGES["zero"](file)
    capsys.readouterr()
    assert ended(resumed(copy, unfinished)) == undisturbed
    said = capsys.readouterr().out
    assert said.count("training goes on without it") == 2 and "going on from" not in said


def test_a_finished_run_whose_record_is_damaged_is_made_again(
    finished: Path, unfinished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], record_property: Tell
) -> None:
    record_property("what", "`kto-lab train` makes a finished run again whose record is damaged")
    copy = Path(shutil.copytree(finished / "run", tmp_path / "run"))
    DAMAGES["flip"](copy / "record.json")
    assert ended(resumed(copy, unfinished)) == ended(finished / "run")
    assert capsys.readouterr().out.count("record.json is damaged") == 1


@EACH
def test_a_finished_run_is_evaluated_again(
    finished: Path, damage: str, every: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str], record_property: Tell
) -> None:
    asked = [word for word in WORDS if word.startswith("evaluation.")]

    def read(copy: Path) -> dict[str, Any]:
        store = f"reference_store.folder={finished / 'store'}"
        words = [f"run={copy}", "trainer=cpu", "evaluation.kl_prompts=0", "evaluation.lm_eval=[]", store, *asked]
        found = read_record(evaluate(composed(words, name="evaluate")))
        return {part: found[part] for part in ("run_id", "metrics", "model")}

    check_each(
        finished / "run",
        FINISHED,
        damage,
        every,
        tmp_path,
        read,
        capsys,
        record_property,
        "`kto-lab evaluate` judges a finished run, a file of which is damaged",
    )


def test_a_policy_of_another_run_is_not_taken_for_the_run_s_own(
    finished: Path, tmp_path: Path, record_property: Tell
) -> None:
    record_property("what", "`kto-lab evaluate` judges a run that has the policy of another")
    other = Path(shutil.copytree(finished / "run", tmp_path / "run"))
    shutil.rmtree(other / "policy")
    model, tokenizer = random_llama(vocabulary=len(byte_tokenizer()), seed=7), byte_tokenizer()
    model.save_pretrained(other / "policy")
    tokenizer.save_pretrained(other / "policy")
    with pytest.raises(LabError, match="SHA256SUMS is damaged: it is missing"):
        evaluate(composed([f"run={other}", "trainer=cpu", "evaluation=none"], name="evaluate"))


@pytest.fixture(scope="session")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of runs and a study of them, one of which failed."""
    folder = tmp_path_factory.mktemp("study")

    def write(where: Path, cell: Mapping[str, Any]) -> None:
        if cell["seed"] == 2:
            fail(where, "It did not fit, and this is why. " * 10)
        else:
            write_answered_run(where, cell)

    table = {"name": "rates", "rows": ["arm"], "metrics": ["pass_rate"]}
    write_study(folder, grid(range(3), arm=["kto", "dpo"], corruption__rate=[0.4]), write, tables=[table])
    return folder


@EACH
def test_a_study_is_reported(
    study: Path, damage: str, every: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str], record_property: Tell
) -> None:
    def read(copy: Path) -> dict[str, str]:
        home = report(copy / "studies" / "noise").parent
        return {name: (home / name).read_text() for name in files(home) if name.endswith((".html", ".csv"))}

    check_each(
        study,
        STUDY,
        damage,
        every,
        tmp_path,
        read,
        capsys,
        record_property,
        "`kto-lab report` reads a study, a file of which is damaged",
    )


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a cache, `cache`, that a run with a converted model has filled, and what the run was made of."""
    folder = tmp_path_factory.mktemp("cached")

    def convert(gguf: Path, target: Path) -> None:
        tokenizer = byte_tokenizer()
        random_llama(vocabulary=len(tokenizer), hidden=32, layers=2, intermediate=64).save_pretrained(target)
        tokenizer.save_pretrained(target)

    (folder / "small.gguf").write_bytes(b"GGUF" * 1000)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(load, "_dequantise", convert)
        patch.setattr(identity, "READ_UP_TO", 1000)
        patch.setattr(table_cache, "LEAST", 0)
        patch.setenv("KTO_LAB_CACHE", str(folder / "cache"))
        run_of_cache(folder, folder / "cache", folder / "first")
        yield folder


def run_of_cache(home: Path, cache: Path, folder: Path) -> Path:
    """A run into a folder, with the model of `home` and a cache folder."""
    own = ["model=hf", f"model.name={home / 'small.gguf'}", f"run_dir={folder}"]
    words = overrides(home, *WORDS, *own, f"reference_store.folder={cache / 'reference'}")
    return train(composed([word for word in words if not word.startswith("model.weights=")]))


@EACH
def test_a_run_reads_the_cache(
    cache: Path,
    damage: str,
    every: bool,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    record_property: Tell,
) -> None:
    def read(copy: Path) -> dict[str, Any]:
        monkeypatch.setenv("KTO_LAB_CACHE", str(copy))
        return ended(run_of_cache(cache, copy, tmp_path / "runs" / copy.name))

    check_each(
        cache / "cache",
        CACHE,
        damage,
        every,
        tmp_path,
        read,
        capsys,
        record_property,
        "`kto-lab train` finds a damaged file in the cache",
    )
