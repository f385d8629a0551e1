import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kto_lab.auditing.exchange import CHOICES, Decision, read_decisions, write_exports
from kto_lab.errors import LabError
from tests.auditing.review_cases import suspects, table


def exported(folder: Path) -> tuple[pa.Table, list[dict[str, Any]], list[dict[str, Any]]]:
    """The suspects, Label Studio's tasks and Argilla's records."""
    rows = suspects(table(), at_random=(1,))
    paths = write_exports(folder, rows, ["label_studio", "argilla"])
    tasks = json.loads((paths["label_studio"] / "tasks.json").read_text())
    records = json.loads((paths["argilla"] / "records.json").read_text())
    return rows.sort_by("rank"), tasks, records


def annotated(task: dict[str, Any], number: int, *choices: str, **more: Any) -> dict[str, Any]:
    """A task as Label Studio exports it: one annotation a choice, all of one reviewer."""
    annotations = [
        {
            "id": place,
            "completed_by": 7,
            "result": [
                {
                    "id": "Dx_aB91ISN",
                    "from_name": "decision",
                    "to_name": "completion",
                    "type": "choices",
                    "origin": "manual",
                    "value": {"choices": [choice]},
                }
            ],
            "was_cancelled": False,
            "ground_truth": False,
            "created_at": "2026-03-09T22:16:08.728353Z",
            "updated_at": f"2026-03-09T22:16:{30 - place}.728378Z",
            "lead_time": 4.288,
            **more,
        }
        for place, choice in enumerate(choices)
    ]
    return {"id": number, "data": task["data"], "annotations": annotations, "predictions": task.get("predictions", [])}


def write(folder: Path, content: Any) -> Path:
    file = folder / "export.json"
    file.write_text(json.dumps(content))
    return file


def test_label_studio_gets_tasks_that_its_configuration_shows(tmp_path: Path) -> None:
    rows, tasks, _ = exported(tmp_path)
    view = ElementTree.parse(tmp_path / "label_studio" / "labeling_config.xml").getroot()
    shown = [item.get("value", "")[1:] for item in view.iter() if item.get("value", "").startswith("$")]
    assert sorted(shown) == ["completion", "prompt", "thumb", "why"]
    assert all(set(shown) <= set(task["data"]) and all(task["data"][name] for name in shown) for task in tasks)
    names = {item.get("name"): item for item in view.iter() if item.get("name")}
    offered = [choice.get("value") for choice in names["decision"]]
    assert offered == ["keep", "flip", "drop"]
    assert [task["data"]["example_id"] for task in tasks] == rows["example_id"].to_pylist()
    assert [task["data"]["completion"] for task in tasks] == rows["completion"].to_pylist()
    for task in tasks:
        for prediction in task.get("predictions", ()):
            (result,) = prediction["result"]
            assert names[result["from_name"]].get("toName") == result["to_name"]
            assert names[result["to_name"]].tag == "Text"
            assert result["value"]["choices"] == ["flip"]


def test_argilla_gets_records_that_its_settings_fit(tmp_path: Path) -> None:
    rows, _, records = exported(tmp_path)
    settings = json.loads((tmp_path / "argilla" / ".argilla" / "settings.json").read_text())
    dataset = json.loads((tmp_path / "argilla" / ".argilla" / "dataset.json").read_text())
    assert dataset["name"] == "kto-lab-audit"
    fields = {field["name"]: field["settings"] for field in settings["fields"]}
    assert fields["prompt"]["type"] == "chat"
    assert not any(field["use_markdown"] for field in fields.values()), "texts are a stranger's"
    (question,) = settings["questions"]
    assert [option["value"] for option in question["settings"]["options"]] == list(CHOICES)
    assert [record["id"] for record in records] == rows["example_id"].to_pylist()
    for record in records:
        assert set(record["fields"]) == set(fields) and all(record["fields"].values())
        assert set(record["metadata"]) == {item["name"] for item in settings["metadata"]}
        assert set(record["suggestions"]) <= {question["name"]}


def test_what_was_drawn_at_random_is_shown_without_an_opinion(tmp_path: Path) -> None:
    rows, tasks, records = exported(tmp_path)
    at_random = rows["sampled_at_random"].to_pylist()
    assert sum(at_random) == 1
    assert ["predictions" not in task for task in tasks] == at_random
    assert [not record["suggestions"] for record in records] == at_random
    settings = json.loads((tmp_path / "argilla" / ".argilla" / "settings.json").read_text())
    visible = {item["name"] for item in settings["metadata"] if item["settings"]["visible_for_annotators"]}
    assert visible == {"rank", "suspicion"}


def test_plain_prompts_are_one_turn(tmp_path: Path) -> None:
    rows = suspects(table()).drop_columns(["prompt"]).append_column("prompt", pa.array(["2+2="] * 6))
    write_exports(tmp_path, rows, ["label_studio"])
    tasks = json.loads((tmp_path / "label_studio" / "tasks.json").read_text())
    assert tasks[0]["data"]["prompt"] == [{"role": "prompt", "content": "2+2="}]


def test_an_unknown_tool_and_a_folder_that_is_there_are_said(tmp_path: Path) -> None:
    rows = suspects(table())
    with pytest.raises(LabError, match="label_studio, argilla, but not to 'prodigy'"):
        write_exports(tmp_path, rows, ["label_studio", "prodigy"])
    assert not list(tmp_path.iterdir())
    write_exports(tmp_path, rows, ["argilla"])
    with pytest.raises(LabError, match="argilla exists"):
        write_exports(tmp_path, rows, ["label_studio", "argilla"])
    assert not (tmp_path / "label_studio").exists()


def test_label_studios_annotations_are_decisions(tmp_path: Path) -> None:
    rows, tasks, _ = exported(tmp_path)
    file = write(
        tmp_path,
        [
            annotated(tasks[0], 1, "flip"),
            # Of one reviewer, the later one in the list is the earlier one in time.
            annotated(tasks[1], 2, "keep", "flip"),
            annotated(tasks[2], 3, "flip", was_cancelled=True),
            annotated(tasks[3], 4, "drop", result=[]),
            annotated(tasks[4], 5, "drop", completed_by={"id": 3, "email": "ada@example.org"}),
            annotated(tasks[5], 6),
        ],
    )
    found = read_decisions(file)
    identities = rows["example_id"].to_pylist()
    assert found[0] == Decision(f"{file}, task 1", identities[0], "flip", False, "Label Studio 7", False)
    assert [(one.example_id, one.choice) for one in found[1:]] == [
        (identities[1], "flip"),
        (identities[1], "keep"),
        (identities[2], "skip"),
        (identities[3], "skip"),
        (identities[4], "drop"),
    ]
    assert found[-1].reviewer == "Label Studio ada@example.org"
    assert [one.sampled_at_random for one in found] == [False] * 5 + [True]


def test_argillas_responses_are_decisions(tmp_path: Path) -> None:
    rows, _, records = exported(tmp_path)
    for record, choice in zip(records, ["flip", "keep", "drop", "skip"], strict=False):
        record["responses"] = {"decision": [{"value": choice, "user_id": f"user of {choice}"}]}
    records[0]["responses"]["decision"].append({"value": "keep", "user_id": "another"})
    found = read_decisions(write(tmp_path, records))
    identities = rows["example_id"].to_pylist()
    assert [(one.example_id, one.choice) for one in found] == [
        (identities[0], "flip"),
        (identities[0], "keep"),
        (identities[1], "keep"),
        (identities[2], "drop"),
        (identities[3], "skip"),
    ]
    assert [one.reviewer for one in found[:2]] == ["Argilla user of flip", "Argilla another"]
    assert [one.desirable for one in found] == [False, False, True, False, True]


def page(**more: Any) -> dict[str, Any]:
    one = {"example_id": "a", "decision": "keep", "desirable": True, "sampled_at_random": False}
    return {"format": "kto-lab decisions", "version": 1, "audit": "x", "reviewer": "", "decisions": [one], **more}


def test_a_reviewer_without_a_name_is_the_file(tmp_path: Path) -> None:
    file = write(tmp_path, page())
    assert read_decisions(file) == [Decision(f"{file}, decision 1", "a", "keep", True, str(file), False)]


TASK = {"data": {"example_id": "a", "desirable": True}, "annotations": [{"result": []}]}
RECORD = {"id": "a", "metadata": {"desirable": 1}, "responses": {"decision": [{"value": "keep"}]}}


KNOWN = {
    *("example_id", "decision", "desirable", "sampled_at_random", "reviewer", "completed_by", "result", "updated_at"),
    *("was_cancelled", "from_name", "value", "choices", "user_id", "email"),
}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "cannot be read as JSON"),
        ("[" * 100_000, "cannot be read as JSON"),
        ("[]", "is neither the review page's"),
        ("null", "is neither the review page's"),
        ('[{"annotations": []}]', "is neither the review page's"),
        ('[{"choice": "keep", "example_id": "a"}]', "choose JSON"),
        (page(version=2), "version 2 of the decisions is not known"),
        (page(decisions={"a": "keep"}), "no list of decisions"),
        (page(decisions=[{"example_id": "a", "desirable": True, "decision": "maybe"}]), "decision 1: .*'maybe'"),
        (page(decisions=[{"example_id": "a", "desirable": True, "decision": ["keep"]}]), "decision 1: .*keep"),
        (page(decisions=[{"example_id": 3, "desirable": True, "decision": "keep"}]), "example_id or desirable"),
        (page(decisions=[{"example_id": "a", "decision": "keep"}]), "example_id or desirable"),
        ([{**TASK, "annotations": None}], "no list of annotations"),
        ([{**TASK, "data": {}}], "example_id or desirable"),
        ([{**RECORD, "metadata": {}}], "example_id or desirable"),
        ([{**RECORD, "metadata": {"desirable": [1]}}], "example_id or desirable"),
        ([{**RECORD, "responses": []}], "no list of responses"),
        ([{**RECORD, "responses": {"decision": [{"value": None}]}}], "the decision is None"),
    ],
)
def test_what_is_no_decision_is_said(tmp_path: Path, content: Any, message: str) -> None:
    file = tmp_path / "decisions.json"
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(LabError, match=message):
        read_decisions(file)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(["keep", "decision", "a", "2026-01-01"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(sorted(KNOWN)), inner, max_size=5),
    max_leaves=12,
)
LIKE_AN_EXPORT = st.one_of(
    JSON,
    st.fixed_dictionaries({"format": st.just("kto-lab decisions"), "version": st.just(1), "decisions": JSON}),
    st.lists(st.fixed_dictionaries({"data": JSON, "annotations": JSON}), max_size=2),
    st.lists(st.fixed_dictionaries({"id": JSON, "metadata": JSON, "responses": JSON}), max_size=2),
)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(content=LIKE_AN_EXPORT)
def test_whatever_is_in_a_file_it_is_read_or_refused(content: Any, tmp_path_factory: pytest.TempPathFactory) -> None:
    file = write(tmp_path_factory.getbasetemp(), content)
    try:
        found = read_decisions(file)
    except LabError as error:
        assert str(file) in str(error)
    else:
        assert all(isinstance(one, Decision) and one.choice in CHOICES for one in found)


def test_a_missing_file_and_another_encoding_are_said(tmp_path: Path) -> None:
    with pytest.raises(LabError, match="there is no file"):
        read_decisions(tmp_path / "missing.json")
    (tmp_path / "latin.json").write_bytes('{"reviewer": "Zo\xeb"}'.encode("latin-1"))
    with pytest.raises(LabError, match="cannot be read as JSON"):
        read_decisions(tmp_path / "latin.json")
