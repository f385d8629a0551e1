from pathlib import Path

import pyarrow.parquet as pq
import pytest

from kto_lab.errors import LabError
from kto_lab.feedback.table import build_table
from kto_lab.judging.answer import Answer
from kto_lab.labeling.labels import Label, Labelled, NoLabel
from kto_lab.labeling.vote import ALONE, APART, NO_VOTE, TIE, Vote, votes_of
from tests.labeling.labeling_cases import CPU

ANSWERS = [Answer("p", text, text) for text in "abcd"]


def file(folder: Path, name: str, *thumbs: tuple[str, bool]) -> str:
    """A label file; each thumb is a completion of the prompt "p"."""
    rows = [{"prompt": "p", "completion": text, "desirable": thumb, "rater": name} for text, thumb in thumbs]
    target = folder / f"{name}.parquet"
    pq.write_table(build_table(rows, source=name, held_out=0).data.table, target)
    return str(target)


def vote(folder: Path, policy: str) -> Labelled:
    files = [
        file(folder, "one", ("a", True), ("b", True), ("c", False)),
        file(folder, "two", ("a", True), ("b", False)),
        file(folder, "three", ("a", True), ("b", False), ("c", True)),
    ]
    return Vote(files, policy).label(ANSWERS, [], CPU)  # type: ignore[arg-type]


def test_most_files_win(tmp_path: Path) -> None:
    found = vote(tmp_path, "majority")
    a, b, c, d = found.verdicts
    assert a == Label(True, "one+two+three", 1.0, {"one": 1.0, "two": 1.0, "three": 1.0})
    assert b == Label(False, "two+three", 1 / 3, {"one": 1.0, "two": 0.0, "three": 0.0})
    assert (c, d) == (NoLabel(TIE), NoLabel(NO_VOTE))
    assert found.raters["two"] == [True, False, None, None]


def test_all_files_must_agree(tmp_path: Path) -> None:
    a, b, c, d = vote(tmp_path, "unanimous").verdicts
    assert isinstance(a, Label) and a.desirable
    assert (b, c, d) == (NoLabel(APART), NoLabel(APART), NoLabel(NO_VOTE))


def test_one_file_alone_agrees_with_nobody(tmp_path: Path) -> None:
    files = [file(tmp_path, "one", ("a", True), ("b", True)), file(tmp_path, "two", ("a", True))]
    a, b, *_ = Vote(files, "unanimous").label(ANSWERS, [], CPU).verdicts
    assert isinstance(a, Label) and b == NoLabel(ALONE)


def test_a_text_has_one_vote_a_file(tmp_path: Path) -> None:
    path = file(tmp_path, "many", ("a", True), ("a", True), ("a", False), ("b", True), ("b", False))
    assert list(votes_of(path).values()) == [True]


def test_files_must_be_two_and_of_different_names(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    one, other = (file(folder, "same", ("a", True)) for folder in (tmp_path, tmp_path / "other"))
    for files in ([one], [one, other]):
        with pytest.raises(LabError, match="two files or more, of different names"):
            Vote(files, "majority").label(ANSWERS, [], CPU)
    with pytest.raises(LabError, match="policy is 'most'"):
        Vote([one, other], "most").label(ANSWERS, [], CPU)  # type: ignore[arg-type]
    with pytest.raises(LabError, match="There is no file"):
        Vote([one, str(tmp_path / "nope.parquet")], "majority").label(ANSWERS, [], CPU)
