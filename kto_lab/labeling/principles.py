"""A constitution: principles in YAML, each a question with yes or no for an answer.

principles:
  - name: helpful
    question: Does the answer do what the request asks for?
    good: yes       # the reply that speaks for the answer; yes unless said
    weight: 2       # under the policy `weighted`; 1 unless said
"""

from dataclasses import dataclass
from pathlib import Path

from kto_lab.errors import LabError
from kto_lab.labeling.yaml_file import check_fields, named_items, read_yaml

FIELDS = ("name", "question", "good", "weight")


@dataclass(frozen=True)
class Principle:
    """One principle.

    Attributes:
        name: what its scores and labels say.
        question: asked about every answer; yes or no.
        good: whether yes is the reply in favour of the answer.
        weight: above 0.
    """

    name: str
    question: str
    good: bool
    weight: float


def read_principles(path: Path) -> list[Principle]:
    """The principles of a YAML file.

    Raises:
        LabError: the file or a principle of it does not fit; the message names both.
    """
    found = read_yaml(path, "principles (labeler.path)")
    check_fields(found, str(path), ("principles",), ("principles",))
    principles = []
    for item, place in named_items(found, "principles", path):
        check_fields(item, place, ("question",), FIELDS)
        question, weight, good = item["question"], item.get("weight", 1.0), item.get("good", True)
        if not isinstance(question, str) or not question.strip().endswith("?"):
            raise LabError(f"{place}: the question is {question!r}; it must be text that ends with a question mark.")
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 < weight < float("inf"):
            raise LabError(f"{place}: the weight is {weight!r}; it must be a number above 0.")
        # YAML reads yes and no as booleans, and "yes" in quotes as text.
        if good not in (True, False, "yes", "no"):
            raise LabError(f"{place}: good is {good!r}; it must be yes or no: the reply that speaks for the answer.")
        principles.append(Principle(item["name"], question.strip(), good in (True, "yes"), float(weight)))
    return principles
