"""Every value against the annotation of what it is for: all of conf/, and each kind of annotation."""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypedDict, Unpack, get_args, get_origin

import pytest
from annotated_types import Ge, Gt, Le
from hydra.utils import get_object
from omegaconf import OmegaConf

from kto_lab import cli, keys, values
from kto_lab.configuration import check_at_once, check_keys
from kto_lab.errors import LabError
from kto_lab.kinds import Node, ParametersOf, StandsFor, Text
from tests.small_runs import composed
from tests.test_conf import COMMAND_OF, OPTIONS, wanted

if TYPE_CHECKING:
    from kto_lab.judging.reward import RewardModel

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
            of_function: Mapping[str, Any] = {}
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


def made(
    first: float,
    *,
    word: Literal["a", "b"] = "a",
    pair: tuple[float, float] = (0.0, 1.0),
    texts: Sequence[str] = (),
    named: Mapping[str, bool | None] | None = None,
    share: Annotated[float, Gt(0), Le(1)] = 1.0,
    judge: "RewardModel | None" = None,
    use: Callable[[int], int] | None = None,
    steps: Annotated[int, Ge(1)] = 1,
) -> None:
    """What a node makes, with each kind of annotation."""


MADE = {"_target_": f"{__name__}.made"}


@pytest.mark.parametrize(
    ("key", "good", "bad", "allowed"),
    [
        ("first", [1, 1.5], ["1", True, None, float("inf")], "a number"),
        ("word", ["b"], ["c", 1, None], "'a' or 'b'"),
        ("pair", [[1, 2.5]], [[1], 1, ["a", 1], [True, 1]], "a list of a number, a number"),
        ("texts", [[], ["a"]], ["a", [1], {"a": "b"}, None], "a list of texts"),
        ("named", [None, {}], ["a", [1]], "a mapping or null"),
        ("share", [1, 0.5], [0, 1.5, "half"], "a number above 0 and at most 1"),
        ("judge", [None], ["model", 3], "a node with a _target_ or null"),
        ("use", [None], ["function"], "a node with a _target_ or null"),
        ("steps", [1], [0, 1.0, "run_steps", False], "a whole number of at least 1"),
    ],
)
def test_each_kind_of_annotation(
    key: str, good: list[Any], bad: list[Any], allowed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(values, "imported", lambda name, _: {MADE["_target_"]: made}[name])
    for value in good:
        values.check({"node": {**MADE, key: value}}, {"node": Node})
    for value in bad:
        with pytest.raises(LabError, match=rf"^node\.{key} is .+; it must be {allowed}\."):
            values.check({"node": {**MADE, key: value}}, {"node": Node})


def test_what_nodes_and_mappings_hold_is_checked_by_its_own_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(values, "imported", lambda name, _: {MADE["_target_"]: made}[name])
    inner = {**MADE, "named": {"up": True, "down": "no"}, "word": "c"}
    with pytest.raises(LabError) as raised:
        values.check({"node": {**MADE, "judge": inner, "use": [{**MADE, "first": "x"}]}}, {"node": Node})
    assert str(raised.value).splitlines() == [
        "node.judge.named.down is 'no'; it must be true, false or null.",
        "node.judge.word is 'c'; it must be 'a' or 'b'.",
        "node.use[0].first is 'x'; it must be a number.",
    ]
    # A word that stands for a number, where the node is marked so; what is not set is another's to say.
    values.check({"node": {**MADE, "steps": "all", "first": "???"}}, {"node": Annotated[Node, StandsFor("all")]})


class Own(TypedDict):
    """Keys of a plain mapping."""

    a: int
    b: Text


def passes_on(function: str, **others: Annotated[Any, ParametersOf("function")]) -> None:
    """Hands everything else on."""


def unpacks(**settings: Unpack[Own]) -> None:
    """Names its keywords in a TypedDict."""


def test_a_mapping_with_named_keys_and_keywords_that_are_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    here = {"passes_on": passes_on, "unpacks": unpacks, "made": made}
    monkeypatch.setattr(values, "imported", lambda name, _: here[name])
    for wrong, said in (
        ({"own": {"a": 1, "b": ""}}, "own.b is ''; it must be a text that is not empty."),
        ({"own": {"b": "x"}}, "There is no own.a; it must be a whole number."),
        ({"own": {"a": 1, "b": "x", "c": 2}}, "There is no key 'own.c': nothing would read it. Known: a, b."),
        ({"node": {"_target_": "unpacks", "a": "x"}}, "node.a is 'x'; it must be a whole number."),
        ({"node": {"_target_": "passes_on", "function": "made", "share": 2}}, "node.share is 2; it must be a number "),
        ({"text": 5}, """text is 5; it must be a text that is not empty. As a text it is in quotes: text="'5'"."""),
    ):
        with pytest.raises(LabError) as raised:
            values.check(wrong, {"own": Own, "node": Node, "text": Text})
        assert str(raised.value).startswith(said)


def test_every_command_checks_its_values_before_its_imports_and_again_itself() -> None:
    assert set(keys.OF_COMMAND) == {command.config for command in cli.COMMANDS.values()}
    cfg = composed(["seed=abc", "optimization.batch_size=no", "loss.beta=abc"])
    with pytest.raises(LabError, match=r"^seed is 'abc'[^\n]+\noptimization\.batch_size is 'no'[^\n]+$"):
        check_at_once(cfg, "train")
    with pytest.raises(LabError, match=r"(?s)^seed is .+\noptimization\.batch_size is .+\nloss\.beta is [^\n]+$"):
        check_keys(cfg, keys.TRAIN)
