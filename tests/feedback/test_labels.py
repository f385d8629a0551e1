"""Labels of one's own: words and emoji, in a YAML file and on the command line."""

import json
from pathlib import Path
from typing import Any

import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf

from kto_lab.configuration import as_hydra_reads
from kto_lab.errors import LabError
from kto_lab.feedback.scale import Labels, Said, scale_of
from tests.small_runs import composed


def meaning(labels: Labels | None, value: Any) -> Said:
    return scale_of(labels, None, None, node="feedback").says(value)[0]


@pytest.mark.parametrize("value", ["❤️", "❤", "Love It", "love_it", ":love-it:", "👍🏽", "YES", True, "ok!"])
def test_a_word_of_ones_own_is_known_in_every_spelling(value: Any) -> None:
    labels = {"❤️": True, "love it": True, "👍": True, True: True, "ok!": True}
    assert meaning(labels, value) is Said.UP
    assert meaning(labels, "no") is Said.DOWN, "the common words stay known"


def test_yaml_takes_an_unquoted_yes_for_true_and_it_still_means_the_word() -> None:
    labels = OmegaConf.create("labels: {yes: false, no: true, 👎: true}")["labels"]
    assert meaning(labels, "Yes") is Said.DOWN and meaning(labels, "no") is Said.UP
    assert meaning(labels, "👎") is Said.UP
    assert meaning({True: True, "yes": False}, "yes") is Said.DOWN, "a word that is written as such comes first"


def test_a_word_that_means_two_things_and_what_is_no_mapping_are_errors() -> None:
    with pytest.raises(
        LabError, match=r"feedback\.labels maps 'Up' to False, and to something else in another spelling"
    ):
        meaning({"up": True, "Up": False}, "up")
    for text in ("ok", "[ok, poor]", "{ok: true"):
        with pytest.raises(LabError, match=r"feedback\.labels is .*it must be a mapping"):
            meaning(text, "ok")
    with pytest.raises(LabError, match=r"maps 'ok' to 'up'\. Map each value"):
        meaning("{ok: up}", "ok")


@pytest.mark.parametrize(
    ("words", "up", "down"),
    [
        ("{👍🏽: true, 👎: false}", "👍", "👎"),
        ("{ok!: true, 'it''s bad': false}", "ok!", "it's bad"),
        ("{ok: true, poor: false}", "ok", "poor"),
        ('{schön: true, "c:\\\\x": false}', "schön", "c:\\x"),
    ],
)
def test_a_mapping_on_the_command_line_needs_no_plus(tmp_path: Path, words: str, up: str, down: str) -> None:
    file = tmp_path / "t.jsonl"
    rows = [{"prompt": "p", "completion": label, "label": label} for label in (up, down)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = as_hydra_reads(["feedback=file", f"feedback.path={file}", f"feedback.labels={words}"])
    table = instantiate(composed(given, name="inspect").feedback)
    assert dict(zip(table["completion"], table["desirable"], strict=True)) == {up: True, down: False}


def test_a_mapping_may_add_names_to_those_of_the_configuration() -> None:
    words = ["export=chat_log", "export.path=x", "output=y", "export.labels={ok: true}", "export.signals={liked: true}"]
    export = composed(as_hydra_reads(words), name="import").export
    assert export.labels == {"removed": None, "ok": True} and export.signals.liked is True
    assert export.signals.copied is None
    sql = ["export=sql", "export.query=x", "output=y", "export.parameters={since: 3}"]
    assert composed(as_hydra_reads(sql), name="import").export.parameters == {"since": 3}


def test_other_words_of_a_command_line_stay_as_they_are() -> None:
    words = [
        "loss=dpo",
        "--cfg",
        "job",
        "+a={b: 1}",
        "++a={b: 1}",
        "signals=[a]",
        "feedback.columns={prompt: 👍}",
        "~a",
    ]
    assert as_hydra_reads(words) == words, "what Hydra cannot read is said by Hydra, but for labels"
    assert as_hydra_reads(["feedback.columns={prompt: q}"]) == ["++feedback.columns={prompt: q}"]
