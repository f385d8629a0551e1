"""The keys of each command's configuration (`conf/<command>.yaml`), and what the value of each may be.

Here, apart from the commands, so that a mistyped value shows before a command's imports. What is in a node is checked
against the parameters of what the node makes; see `kto_lab.values`.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeAlias, TypedDict

from annotated_types import Ge

from kto_lab.kinds import AtLeastOne, Count, Node, Seed, StandsFor, Text

Keys: TypeAlias = Mapping[str, Any]
# The value of a schedule's key that stands for the number of optimiser steps of the run.
RUN_STEPS = "run_steps"
_Update: TypeAlias = Annotated[Node, StandsFor(RUN_STEPS)]
_Repeats: TypeAlias = Literal["last", "majority", "all", "drop"]


class Repeats(TypedDict):
    """`repeats` of an import."""

    one_rater: _Repeats
    several_raters: _Repeats
    rows_in_order_of_time: bool


class Duplicates(TypedDict):
    """`duplicates` of an import."""

    exact: Literal["drop", "keep"]
    anonymous: Literal["drop", "keep"]
    near_threshold: float | None
    near: Literal["report", "drop"]


TRAIN: Keys = {
    "seed": Seed,
    "runs_dir": Text,
    "run_dir": Text,
    "lengths": Node,
    "optimization": Node,
    "model": Node,
    "adapter": Node,
    "feedback": Node,
    "corruption": Node,
    "loss": Node,
    "reference": Node,
    "optimizer": Node,
    "schedule": _Update,
    "reference_store": Node,
    "evaluation": Node,
    "logger": Node,
    "trainer": Node,
}
EVALUATE: Keys = {
    "run": Text | None,
    "output": Text | None,
    "trust": list[str],
    "model": Node | None,
    "feedback": Node | None,
    "lengths": Node,
    "reference_store": Node,
    "evaluation": Node,
    "trainer": Node,
}
# A study is read by the sweep, and refers to keys that its cells have.
REPORT: Keys = {"study": Any, "runs_dir": Text, "folder": Text | None, "publish": Text | None}
PUBLISH: Keys = {
    "run": Text,
    "to": Text,
    "repo": Text | None,
    "private": bool,
    "dry_run": bool,
    "title": Text | None,
    "base_model": Text | None,
    "dataset": Text | None,
    "license": Text | None,
    "license_of_base": Text | None,
    "license_of_data": Text | None,
}
COLLECT: Keys = {
    "model": Node,
    "prompts": Node,
    "trainer": Node,
    "output": Text,
    "held_out": float,
    "sampling": Node,
}
INSPECT: Keys = {
    "feedback": Node,
    "corruption": Node,
    "model": Node | None,
    "example": Count,
    "seed": Seed,
    "deployment_ratio": float | None,
    "output": Text,
}
EXPORT: Keys = {
    "feedback": Node,
    "format": Literal["trl", "halos", "llama_factory", "openai", "argilla"],
    "rows": Literal["thumbs", "pairs"] | None,
    "seed": Seed,
    "output": Text,
}
IMPORT: Keys = {
    "export": Node,
    "path": str | list[str] | None,
    "output": Text | None,
    "from": Text | None,
    "held_out": float,
    "group_by": Literal["model", "signal", "rater", "none"],
    "prompt_form": Literal["as_given", "chat", "text"],
    "max_characters": int,
    "repeats": Repeats,
    "duplicates": Duplicates,
    "personal_data": Literal["report", "redact", "ignore"],
    "phone_region": str | None,
    "recent_days": float,
    "places": int,
}
LABEL: Keys = {
    "answers": Node,
    "labeler": Node,
    "feedback": Node | None,
    "trainer": Node,
    "output": Text,
    "given": Literal["replace", "keep"],
    "limit_prompts": AtLeastOne | None,
}
AUDIT: Keys = {
    "feedback": Node,
    "corruption": Node,
    "model": Node,
    "adapter": Node,
    "loss": Node,
    "optimizer": Node,
    "schedule": _Update,
    "trainer": Node,
    "lengths": Node,
    "optimization": Node,
    "output": Text,
    "split": Literal["train", "test", "all"],
    "signals": list[Literal["out_of_fold", "training", "raters", "contradiction"]],
    "folds": Annotated[int, Ge(2)],
    "near_duplicates": float | None,
    "top": Count,
    "at_random": Count,
    "exports": list[Literal["label_studio", "argilla"]],
    "decisions": str | list[str] | None,
    "seed": Seed,
}
REVIEW: Keys = {
    "feedback": Node,
    "decisions": str | list[str],
    "conflicts": Literal["majority", "leave", "drop", "error"],
    "output": Text,
}
CACHE: Keys = {"reference_store": Node, "prune": Node}
INIT: Keys = {"folder": Text}
CHECK: Keys = {
    "runs_dir": Text,
    "output": Text | None,
    "size": Literal["auto", "quick", "full"],
    "room": Node,
    "limits": Node,
}
# By the name of the file in conf/.
OF_COMMAND: Mapping[str, Keys] = {
    "train": TRAIN,
    "evaluate": EVALUATE,
    "report": REPORT,
    "publish": PUBLISH,
    "collect": COLLECT,
    "inspect": INSPECT,
    "export_table": EXPORT,
    "import": IMPORT,
    "label": LABEL,
    "audit": AUDIT,
    "review": REVIEW,
    "cache": CACHE,
    "check": CHECK,
    "init": INIT,
}
