"""`kto-lab feedback audit`."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from datasets import Dataset

from kto_lab.auditing.command import audit_feedback
from kto_lab.auditing.exchange import FORMAT, VERSION
from kto_lab.errors import LabError
from kto_lab.feedback.collected import from_collected
from tests.auditing.audit_tables import looks, several_thumbs
from tests.small_runs import composed


def saved(table: Dataset, folder: Path) -> list[str]:
    file = folder / "thumbs.parquet"
    pq.write_table(table.with_format("arrow")[:], file)
    return ["feedback=collected", f"feedback.path={file}", f"output={folder / 'audit'}"]


def audited(words: list[str]) -> Path:
    return audit_feedback(composed(words, name="audit"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("audited")
    table = looks(60, flips_down=0.1, flips_up=0.2)
    return audited([*saved(table, place), "top=20", "at_random=10", "exports=[label_studio]"])


def test_the_folder_holds_the_page_the_suspects_and_every_score(folder: Path) -> None:
    assert (folder / "review.html").is_file() and (folder / "label_studio").is_dir()
    suspects = pq.read_table(folder / "suspects.parquet")
    assert 20 <= len(suspects) <= 30
    assert sum(suspects["sampled_at_random"].to_pylist()) == 10
    scores = pq.read_table(folder / "scores.parquet")
    assert len(scores) == 240 and sorted(scores["rank"].to_pylist()) == list(range(1, 241))
    assert {"signal_out_of_fold", "flagged_by_cleanlab"} <= set(scores.column_names)


def test_the_numbers_say_what_was_found(folder: Path) -> None:
    numbers = json.loads((folder / "audit.json").read_text())
    assert numbers["silent"] == ["raters"] or numbers["silent"] == ["raters", "contradiction"]
    assert numbers["clean_labels"]["found"]["combined"]["auc"]["value"] > 0.9
    rates = numbers["rates"]["noise_aware"]
    assert rates["desirable"]["low"] == 0 and 0.1 < rates["desirable"]["high"] < 0.4
    assert rates["undesirable"]["low"] == 0 and 0.2 < rates["undesirable"]["high"] < 0.5
    assert [trial["rate"] for trial in numbers["bounds"]["trials"]] == [0.1, 0.2, 0.3]
    # The thumbs that no signal predicts may be right: no loss follows from them.
    (item,) = numbers["advice"]
    assert item["override"] == "" and "cannot be known" in item["text"]


def test_the_clean_labels_are_not_read(folder: Path, tmp_path: Path) -> None:
    table = looks(60, flips_down=0.1, flips_up=0.2)
    place = table.column_names.index("desirable_clean")
    arrow = table.data.table.set_column(place, "desirable_clean", [table["desirable"][:]])
    blind = audited([*saved(Dataset(arrow), tmp_path), "top=20", "at_random=10"])
    for name in ("rank", "suspicion"):
        one, other = (pq.read_table(at / "scores.parquet")[name].to_pylist() for at in (folder, blind))
        assert one == other
    assert json.loads((blind / "audit.json").read_text())["clean_labels"] == {"rates": None, "found": {}}


def test_an_audit_is_not_overwritten(folder: Path) -> None:
    with pytest.raises(LabError, match="holds an audit"):
        audited([*saved(looks(10), folder.parent), f"output={folder}"])


def test_raters_are_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = several_thumbs(60, raters=((0.1, 0.1), (0.1, 0.1), (0.3, 0.3)))
    words = [*saved(table, tmp_path), "signals=[raters]", "at_random=100", "top=0"]
    numbers = json.loads((audited(words) / "audit.json").read_text())
    assert set(numbers["raters"]) == {"rater 0", "rater 1", "rater 2"}
    missed = {name: record["missed"] for name, record in numbers["raters"].items()}
    assert missed["rater 2"]["value"] > missed["rater 0"]["value"] > missed["rater 0"]["low"]
    assert numbers["raters"]["rater 0"]["shared"] == 60
    assert "Dawid" in capsys.readouterr().out


def test_the_whole_table_can_be_audited_and_the_corruption_is_of_the_training_split(tmp_path: Path) -> None:
    whole = from_collected("instruction_checks", 10)
    test = [row for row, split in enumerate(whole["split"][:]) if split == "test"]
    table = whole.select([row for row in range(len(whole)) if row not in set(test[40:])])
    words = [*saved(table, tmp_path), "split=all", "corruption=label_noise", "corruption.rate=0.2", "folds=2"]
    numbers = json.loads((audited([*words, "near_duplicates=null"]) / "audit.json").read_text())
    assert numbers["examples"] == len(table)
    train = np.array([split == "train" for split in table["split"][:]])
    labels = np.array(table["desirable"][:])
    wrong = sum(round(0.2 * int((labels[train] == kind).sum())) for kind in (True, False))
    truth = numbers["clean_labels"]["rates"]
    up = labels.sum()
    assert truth["desirable"] * up + truth["undesirable"] * (len(labels) - up) == pytest.approx(wrong)


def decided(suspects: list[dict[str, Any]], table: Dataset, file: Path) -> Path:
    """What a reviewer who knows the truth downloads from the page."""
    truth = dict(zip(table["example_id"][:], table["desirable_clean"][:], strict=True))
    decisions = [
        {
            "example_id": row["example_id"],
            "desirable": row["desirable"],
            "decision": "keep" if row["desirable"] == truth[row["example_id"]] else "flip",
            "sampled_at_random": row["sampled_at_random"],
        }
        for row in suspects
    ]
    file.write_text(json.dumps({"format": FORMAT, "version": VERSION, "reviewer": "r", "decisions": decisions}))
    return file


def test_a_review_of_random_examples_gives_rates(folder: Path, tmp_path: Path) -> None:
    table = looks(60, flips_down=0.1, flips_up=0.2)
    first = audited([*saved(table, tmp_path), "signals=[contradiction,out_of_fold]", "top=0", "at_random=240"])
    file = decided(pq.read_table(first / "suspects.parquet").to_pylist(), table, tmp_path / "decisions.json")
    again = [*saved(table, tmp_path), f"output={tmp_path / 'again'}", f"decisions={file}"]
    numbers = json.loads((audited(again) / "audit.json").read_text())
    for side in ("desirable", "undesirable"):
        assert numbers["rates"]["reviewed"][side]["value"] == numbers["clean_labels"]["rates"][side]
    # The lower end of one is above what matters: a loss follows.
    assert any(item["override"].startswith("loss=kto_robust") for item in numbers["advice"])
    # The suspects alone are no sample.
    file = decided(pq.read_table(folder / "suspects.parquet").to_pylist()[:1], table, tmp_path / "one.json")
    with pytest.raises(LabError, match="no random examples of both kinds"):
        audited([*saved(table, tmp_path), f"output={tmp_path / 'third'}", f"decisions={file}"])


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("signals=[]", "one or more of"),
        ("signals=[out_of_fold,out_of_fold]", "each once"),
        ("signals=[telepathy]", "it must be a list"),
        ("split=half", "must be 'train'"),
        ("folds=1", "at least 2"),
        ("top=-1", "a whole number of at least 0"),
        ("near_duplicates=7", "near_duplicates"),
        ("signals=[raters]", "can say anything"),
    ],
)
def test_a_mistake_in_the_settings_is_said(tmp_path: Path, word: str, said: str) -> None:
    with pytest.raises(LabError, match=said):
        audited([*saved(looks(20), tmp_path), "folds=2", word])
