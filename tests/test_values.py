"""Every value against the annotation of what it is for: all of conf/, and each kind of annotation."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

import pytest
from hydra.utils import get_object
from omegaconf import OmegaConf

from kto_lab import keys, values
from kto_lab.errors import LabError
from tests.small_runs import composed
from tests.test_conf import COMMAND_OF, OPTIONS, wanted

if TYPE_CHECKING:
    pass

NOT_BOOLEAN = ("no", "yes", "maybe", "off", 1, None)
# Names of columns, of values of a query and the like: any text will do, and there may be any number of them.
FREE = ("columns", "event_columns", "parameters", "labels")
# Keys of conf/ that take anything by intent.
ANYTHING: set[str] = set()


@dataclass
class Leaf:
    """A plain value in a configuration: its key, itself, what it may be, and the mapping that holds it."""

    key: str
    value: Any
    kind: Any
    holder: dict[str, Any]

    @property
    def name(self) -> str:
        return self.key.rpartition(".")[2]


def leaves(holder: dict[str, Any], kinds: Mapping[str, Any], above: str = "") -> Iterator[Leaf]:
    """All plain values that a mapping holds, at any depth."""
    for name, value in holder.items():
        if name.startswith("_"):
            continue
        kind = kinds.get(name, Any)
        if not isinstance(value, dict):
            yield Leaf(f"{above}{name}", value, kind, holder)
        elif "_target_" in value:
            target = values.parameters(get_object(value["_target_"]))
            of_function = {}
            if target.passed_on_to is not None:
                of_function = values.parameters(get_object(value[target.passed_on_to])).kinds
            yield from leaves(value, {**of_function, **target.kinds}, f"{above}{name}.")
        elif name not in FREE:
            hints = getattr(kind, "__annotations__", None) or dict.fromkeys(value, get_args(kind)[-1])
            yield from leaves(value, hints, f"{above}{name}.")


def is_words(kind: Any) -> bool:
    """Whether a value is one of a few words."""
    parts = get_args(kind)
    return get_origin(kind) is Literal or (str not in parts and any(is_words(part) for part in parts))


def wrong_for(leaf: Leaf) -> Sequence[Any]:
    """What the value of a key must not be, judged by the value that conf/ ships."""
    if isinstance(leaf.value, bool):
        return NOT_BOOLEAN if get_args(leaf.kind) == () else NOT_BOOLEAN[:-1]
    if isinstance(leaf.value, int | float):
        return ("abc", True, float("nan"))
    if isinstance(leaf.value, list):
        return ("abc", 3, {"a": 1})
    return ("no-such-word",) if is_words(leaf.kind) else ()


def everything() -> Iterator[tuple[str, list[str], str]]:
    """What to compose so that each option of conf/ and each command is seen once, and the node that is looked at."""
    for name in keys.OF_COMMAND:
        yield name, [], ""
    for group, option in OPTIONS:
        if group != "study":
            yield COMMAND_OF.get(group, "train"), wanted(group, option), "" if group == "scale" else group


@pytest.mark.parametrize(("command", "words", "group"), list(everything()), ids=str)
def test_every_value_of_conf_fits_and_no_wrong_one_does(command: str, words: list[str], group: str) -> None:
    cfg = composed(words, name=command)
    known = keys.OF_COMMAND[command]
    given = {key: cfg[key] for key in known if key in cfg and key != "study"}
    plain = {
        key: OmegaConf.to_container(one, resolve=True) if OmegaConf.is_config(one) else one
        for key, one in given.items()
    }
    values.check(plain, known)
    where = {"value": "loss", "reference_point": "loss", "weighting": "loss", "judge": "evaluation"}.get(group, group)
    looked_at = {where: plain[where]} if where else plain
    seen = list(leaves(copy.deepcopy(looked_at), known))
    for leaf in seen:
        assert leaf.kind is not Any or leaf.key in ANYTHING, f"nothing says what {leaf.key} may be"
    for leaf in seen:
        for value in wrong_for(leaf):
            trial = copy.deepcopy(looked_at)
            at: Any = trial
            *path, last = leaf.key.split(".")
            for part in path:
                at = at[part]
            at[last] = value
            with pytest.raises(LabError, match=rf"^{leaf.key}(\[\d\])? is .*; it must be ") as raised:
                values.check(trial, known)
            assert "\n" not in str(raised.value)
