import json
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from kto_lab import cli
from kto_lab.errors import LabError
from kto_lab.feedback.collected import from_collected
from kto_lab.labeling.command import LABELED_BY, SCORES, label_feedback
from kto_lab.runs.command import train
from tests.small_runs import SMALL, composed, write_jsonl

RULES = """
rules:
  - {name: polite, thumb: up, when: {keywords: please}}
  - {name: loud, thumb: down, when: {format: uppercase}}
"""


def answers(folder: Path) -> Path:
    rows: list[dict[str, Any]] = []
    for number in range(12):
        rows += [
            {"prompt": f"p{number}", "completion": f"please {number}", "thumb": True, "who": "ann"},
            {"prompt": f"p{number}", "completion": f"NOW {number}", "thumb": None},
            {"prompt": f"p{number}", "completion": f"hm {number}", "thumb": None},
        ]
    return write_jsonl(folder / "answers.jsonl", rows)


def words(folder: Path, *more: str) -> list[str]:
    (folder / "rules.yaml").write_text(RULES)
    own = [f"answers.path={answers(folder)}", f"labeler.path={folder / 'rules.yaml'}", "trainer=cpu"]
    return [*own, f"output={folder / 'labels.parquet'}", *more]


def label(folder: Path, *more: str) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The labelled rows and the report."""
    target = label_feedback(composed(words(folder, *more), name="label"))
    return pq.read_table(target).to_pylist(), json.loads(target.with_suffix(".json").read_text())


def test_answers_become_a_table_that_a_run_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["kto-lab", "feedback", "label", *words(tmp_path)])
    cli.main()
    said = capsys.readouterr().out
    assert "24 of 36 answers have a thumb: 12 up, 12 down, 50% up" in said
    assert "left out: 12  no rule matches" in said
    table = from_collected("labels.parquet", None)
    assert {row["completion"].split()[0]: row["desirable"] for row in table} == {"please": True, "NOW": False}
    assert set(table["rater"]) == {"rules"}
    rows = pq.read_table("labels.parquet").to_pylist()
    assert {(row[LABELED_BY], row[SCORES]) for row in rows} == {
        ("polite", '{"polite": 1.0}'),
        ("loud", '{"loud": 1.0}'),
    }
    report = json.loads(Path("labels.json").read_text())
    assert report["left_out"]["no rule matches"]["answers"] == 12
    assert report["left_out"]["no rule matches"]["first"][0].endswith("answers.jsonl:3")
    assert report["deciders"]["polite"]["up"] == 12 and report["truth"] is None
    assert report["labeler"]["rules"]["loud"]["decides"] == 12


def test_a_run_trains_on_labels(tmp_path: Path) -> None:
    label(tmp_path)
    own = [word for word in SMALL if word != "feedback=file"]
    own += ["feedback=collected", f"feedback.path={tmp_path / 'labels.parquet'}", "optimization.max_steps=1"]
    folder = train(composed([*own, f"run_dir={tmp_path / 'run'}", "reference_store=none"]))
    assert json.loads((folder / "record.json").read_text())["data"]["counts"]["train"]["examples"] > 0


def test_thumbs_that_there_were_are_the_truth(tmp_path: Path) -> None:
    rows, report = label(tmp_path, "answers.columns.label=thumb", "answers.columns.rater=who")
    assert report["truth"]["answers"] == 12 and report["truth"]["accuracy"]["value"] == 1
    assert all(row["desirable_clean"] == row["desirable"] for row in rows)


def test_a_wrong_label_leaves_the_truth_to_evaluation(tmp_path: Path) -> None:
    (tmp_path / "turned.yaml").write_text(RULES.replace("thumb: up", "thumb: down"))
    rows, report = label(tmp_path, "answers.columns.label=thumb", f"labeler.path={tmp_path / 'turned.yaml'}")
    polite = [row for row in rows if row[LABELED_BY] == "polite"]
    assert {(row["desirable"], row["desirable_clean"]) for row in polite} == {(False, True)}
    assert report["truth"]["accuracy"]["value"] == 0 and report["deciders"]["polite"]["right"]["value"] == 0


def test_thumbs_can_be_kept(tmp_path: Path) -> None:
    rows, report = label(tmp_path, "answers.columns.label=thumb", "answers.columns.rater=who", "given=keep")
    kept = [row for row in rows if row[LABELED_BY] == "given"]
    assert len(kept) == 12 and {row["rater"] for row in kept} == {"ann"} and report["given_and_kept"] == 12
    assert report["answers"] == 24 and len(rows) == 24


def test_a_table_labels_itself_out_of_fold_and_is_measured(tmp_path: Path) -> None:
    more = ["answers=feedback", "feedback=arithmetic", "labeler=classifier", "limit_prompts=80", "labeler.folds=2"]
    cfg = composed([*more, "trainer=cpu", f"output={tmp_path / 'labels.parquet'}"], name="label")
    report = json.loads(label_feedback(cfg).with_suffix(".json").read_text())
    assert report["answers"] == report["truth"]["answers"] and report["prompts"] == 80
    assert report["auc"]["score"]["n"] == 80
    table = from_collected(str(tmp_path / "labels.parquet"), None)
    assert set(table["checks"]) and all(row["checks"] for row in table)
    given = {(row["prompt"], row["completion"]): row["desirable_clean"] for row in from_collected("arithmetic", None)}
    assert all(row["desirable_clean"] == given[row["prompt"], row["completion"]] for row in table)


def test_a_vote_compares_label_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        label(tmp_path / name, f"output={tmp_path / name}.parquet")
    files = f"labeler.files=[{tmp_path / 'one.parquet'},{tmp_path / 'two.parquet'}]"
    capsys.readouterr()
    more = ["labeler=vote", files, "trainer=cpu", f"answers.path={answers(tmp_path)}", "answers.columns.label=thumb"]
    target = label_feedback(composed([*more, f"output={tmp_path / 'vote.parquet'}"], name="label"))
    report = json.loads(target.with_suffix(".json").read_text())
    assert report["alpha"]["value"] == 1
    assert report["kappa"][0]["raters"] == ["vote", "one"]
    assert "Cohen's kappa of every two" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["given=drop"], "given is 'drop'"),
        (["answers=feedback"], "name it, such as feedback=arithmetic"),
        (["+nothing=1"], "Nothing reads the configuration's nothing"),
        (["labeler=classifier"], "finds 0 up and 0 down"),
    ],
)
def test_what_cannot_be_done_is_said(tmp_path: Path, more: list[str], said: str) -> None:
    own = words(tmp_path)
    if more[0] == "answers=feedback":
        own = [word for word in own if not word.startswith("answers.path")]
    if more[0] == "labeler=classifier":
        own = [word for word in own if not word.startswith("labeler.path")]
    with pytest.raises(LabError, match=said):
        label_feedback(composed([*own, *more], name="label"))
    assert not (tmp_path / "labels.parquet").exists()


def test_nothing_is_written_over_and_nothing_where_no_answer_gets_a_thumb(tmp_path: Path) -> None:
    (tmp_path / "rules.yaml").write_text("x")
    never = tmp_path / "never.yaml"
    never.write_text("rules: [{name: never, thumb: up, when: {keywords: nowhere}}]")
    with pytest.raises(LabError, match="No answer got a thumb from labeler=rules"):
        label(tmp_path, f"labeler.path={never}")
    for name in ("labels.parquet", "labels.json"):
        (tmp_path / name).write_bytes(b"mine")
        with pytest.raises(LabError, match=f"{name} exists"):
            label(tmp_path)
        assert (tmp_path / name).read_bytes() == b"mine"
        (tmp_path / name).unlink()
