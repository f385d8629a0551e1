from pathlib import Path

import pytest

from kto_lab.errors import LabError
from kto_lab.labeling.principles import Principle, read_principles
from kto_lab.labeling.yaml_file import shipped

BOOK = """
principles:
  - name: kind
    question: Is the answer kind?
  - name: safe
    question: Does the answer hurt somebody?
    good: no
    weight: 2
"""


def test_principles_are_read_with_their_sides_and_weights(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(BOOK)
    wanted = [
        Principle("kind", "Is the answer kind?", True, 1),
        Principle("safe", "Does the answer hurt somebody?", False, 2),
    ]
    assert read_principles(file) == wanted
    file.write_text(BOOK.replace("good: no", "good: 'no'"))
    assert read_principles(file) == wanted, "no in quotes is no boolean, and means the same"


def test_the_one_that_ships_asks_both_ways() -> None:
    found = read_principles(shipped("constitution.yaml"))
    assert {"helpful", "honest", "harmless", "follows the form"} <= {principle.name for principle in found}
    assert {principle.good for principle in found} == {True, False}


@pytest.mark.parametrize(
    ("book", "said"),
    [
        (BOOK.replace("kind?", "kind"), "principle 'kind': the question .* ends with a question mark"),
        (BOOK.replace("weight: 2", "weight: 0"), "principle 'safe': the weight is 0"),
        (BOOK.replace("weight: 2", "weight: .nan"), "principle 'safe': the weight is nan"),
        (BOOK.replace("weight: 2", "weight: true"), "principle 'safe': the weight is True"),
        (BOOK.replace("good: no", "good: bad"), "principle 'safe': good is 'bad'"),
        (BOOK.replace("good: no", "godo: no"), "nothing reads 'godo'. Did you mean 'good'"),
        (BOOK.replace("name: safe", "name: kind"), "two principles are named 'kind'"),
        ("rules: []", "nothing reads 'rules'"),
        ("principles: none", "'principles' must be a list"),
    ],
)
def test_a_mistaken_file_says_what_and_where(tmp_path: Path, book: str, said: str) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(book)
    with pytest.raises(LabError, match=f"mine.yaml.*{said}"):
        read_principles(file)
