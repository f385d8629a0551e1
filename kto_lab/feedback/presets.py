"""The formats of tools, by name: where each keeps prompt, answers and labels. A format is a few lines of `PRESETS`.

A tool may write several shapes of rows (thumbs, pairs); the first one that fits a file is taken. Those at the top are
the most particular: they are offered first for a file that looks like several.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from kto_lab.feedback import preset_rows
from kto_lab.feedback.preset_rows import NO_WINNER, NOT_RANKED, Row


@dataclass(frozen=True)
class Shape:
    """One shape of rows.

    Attributes:
        columns: where each field is; several names ("label|kto_tag") where tools or versions differ.
        optional: further fields, read where their column is there.
        settings: of `layout.Settings`, where they are not set by hand.
        turn: what a row is turned into before its columns are read.
        needs: the columns that a row has before it is turned; None: those that are read.
        unlike: why a row is not of this shape although it has the columns; None where it is.
        chat: a prompt that is text becomes a user message.
    """

    columns: Mapping[str, str]
    optional: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    turn: Callable[[Row], list[Row]] | None = None
    needs: Mapping[str, str] | None = None
    unlike: Callable[[Row], str | None] | None = None
    chat: bool = False


@dataclass(frozen=True)
class Preset:
    """The format of a tool.

    Attributes:
        tool: its name, for people.
        shapes: what its rows may look like.
        cut_at: the tool cuts texts at so many characters; None: it does not.
    """

    tool: str
    shapes: Sequence[Shape]
    cut_at: int | None = None


_SIDES = {"chosen": "chosen", "rejected": "rejected"}
_SCORES = {
    "score_chosen": "score_chosen|chosen_score|chosen-rating|chosen_rating",
    "score_rejected": "score_rejected|rejected_score|rejected-rating|rejected_rating",
}
_CONVERSATIONS = Shape(
    _SIDES, _SCORES, {"ignore": ["prompt", "prompt_id", "messages"]}, unlike=preset_rows.whole_conversations
)
# What was told before the conversation.
_TOLD = {"system": "system", "tools": "tools"}
_TAG = "kto_tag|label"
_QUESTION = "instruction|question|prompt|input"
_VOTE = {"model_a": True, "model_b": False, "tie": None, "tie (bothbad)": None, "both_bad": None, NO_WINNER: None}
_RESPONSES = {"prompt": "prompt", "chosen": "response_a", "rejected": "response_b"}
_VOTER = {"rater": "judge|evaluation_session_id", "timestamp": "tstamp|timestamp"}

PRESETS: dict[str, Preset] = {
    "openai": Preset(
        "OpenAI's preference fine-tuning",
        [
            Shape(
                {"prompt": "input.messages", "chosen": "preferred_output", "rejected": "non_preferred_output"},
                {"tools": "input.tools"},
                settings={"ignore": ["input.parallel_tool_calls"]},
            )
        ],
    ),
    "openassistant": Preset(
        "trees of OpenAssistant",
        [
            Shape(
                {"prompt": "prompt", **_SIDES, "chosen_wins": "ranked"},
                settings={"labels": {True: True, NOT_RANKED: None}, "ignore": ["message_tree_id", "tree_state"]},
                turn=preset_rows.tree,
                needs={"prompt": "prompt"},
                unlike=preset_rows.trees,
            )
        ],
    ),
    "pku_saferlhf": Preset(
        "PKU-SafeRLHF",
        [
            Shape(
                {
                    "prompt": "prompt",
                    "chosen": "response_0",
                    "rejected": "response_1",
                    "chosen_wins": "better_response_id",
                },
                settings={"labels": {0: True, 1: False}},
            )
        ],
    ),
    "arena": Preset(
        "votes of an arena",
        [
            Shape(
                {"chosen": "conversation_a", "rejected": "conversation_b", "chosen_wins": "winner"},
                _VOTER,
                {"labels": _VOTE, "lists": "turns"},
            ),
            Shape(
                {**_RESPONSES, "chosen_wins": "winner"},
                _VOTER,
                {"labels": _VOTE, "lists": "turns"},
            ),
            Shape(
                {**_RESPONSES, "chosen_wins": "winner"},
                _VOTER,
                {"labels": _VOTE, "lists": "turns"},
                turn=preset_rows.arena_columns,
                needs={**_RESPONSES, "chosen_wins": "winner_model_a"},
            ),
        ],
    ),
    "helpsteer": Preset(
        "ratings of HelpSteer, 0 to 4: 3 and 4 are up, 0 and 1 down",
        [
            Shape(
                {"prompt": "prompt", "completion": "response", "label": "helpfulness"},
                settings={"up_from": 3, "down_to": 1},
            )
        ],
    ),
    "halos": Preset(
        "HALOs' feedback as JSON",
        [
            Shape(
                {"prompt": "prompt", "chosen": "output_A", "rejected": "output_B", "chosen_wins": "label"},
                {"score_chosen": "reward_A", "score_rejected": "reward_B", "split": "split"},
                {"labels": {1: True, 0: False}},
            ),
            Shape(
                {"prompt": "prompt", "completion": "output", "label": "label"},
                {"score": "reward", "split": "split"},
                {"labels": {1: True, 0: False}},
            ),
        ],
    ),
    "sharegpt": Preset(
        "ShareGPT, as LLaMA-Factory reads it",
        [
            Shape({"prompt": "conversations", **_SIDES}, {**_TOLD, **_SCORES}),
            Shape({"completion": "conversations", "label": _TAG}, _TOLD),
        ],
    ),
    "alpaca": Preset(
        "Alpaca, as LLaMA-Factory reads it",
        [
            Shape({"prompt": "prompt", **_SIDES}, turn=preset_rows.alpaca, needs={"prompt": "instruction", **_SIDES}),
            Shape(
                {"prompt": "prompt", "completion": "output", "label": _TAG},
                turn=preset_rows.alpaca,
                needs={"prompt": "instruction", "completion": "output", "label": _TAG},
            ),
        ],
    ),
    "ms_swift": Preset(
        "ms-swift",
        [
            Shape(
                {"chosen": "messages", "rejected": "rejected"},
                turn=preset_rows.swift_pair,
                needs={"chosen": "messages", "rejected": "rejected_response|rejected_messages"},
            ),
            Shape({"completion": "messages", "label": "label"}),
            Shape(
                {"prompt": "query", "chosen": "response", "rejected": "rejected_response"},
                {"system": "system"},
                chat=True,
            ),
            Shape({"prompt": "query", "completion": "response", "label": "label"}, {"system": "system"}, chat=True),
        ],
    ),
    "ultrafeedback": Preset(
        "UltraFeedback, binarized",
        [
            replace(_CONVERSATIONS, columns={**_SIDES, **_SCORES}),
            Shape({"prompt": "prompt|instruction", **_SIDES, **_SCORES}),
        ],
    ),
    "trl": Preset(
        "TRL",
        [
            _CONVERSATIONS,
            Shape({"prompt": "prompt", **_SIDES}, {**_SCORES, "tools": "tools"}),
            Shape(
                {"prompt": "prompt", **_SIDES},
                _SCORES,
                turn=preset_rows.common_prompt,
                needs=_SIDES,
                unlike=preset_rows.texts_alone,
            ),
            Shape({"prompt": "prompt", "completion": "completion", "label": "label"}, {"tools": "tools"}),
        ],
    ),
    "axolotl": Preset(
        "axolotl",
        [
            Shape({"prompt": "messages", **_SIDES}, {"system": "system"}),
            _CONVERSATIONS,
            Shape(
                {"prompt": _QUESTION, "chosen": "chosen_response|chosen", "rejected": "rejected_response|rejected"},
                {"system": "system"},
                chat=True,
            ),
            Shape({"prompt": _QUESTION, "completion": "completion", "label": "label"}, {"system": "system"}, chat=True),
        ],
    ),
    "openrlhf": Preset(
        "OpenRLHF",
        [
            _CONVERSATIONS,
            Shape({"prompt": "prompt|input|question|context_messages", **_SIDES}),
            Shape(
                {
                    "prompt": "instruction|input|prompt|question|context_messages",
                    "completion": "output|response",
                    "label": "label|score",
                }
            ),
        ],
    ),
    "stars": Preset(
        "ratings of one to five stars: 4 and 5 are up, 1 and 2 down",
        [
            Shape(
                {
                    "prompt": "prompt|question|instruction|query",
                    "completion": "completion|response|answer|output",
                    "label": "rating|stars|score",
                },
                settings={"up_from": 4, "down_to": 2},
            )
        ],
    ),
    "spreadsheet": Preset(
        "a sheet of Excel, whose cells hold no more than 32,767 characters",
        [Shape({"prompt": "prompt", "completion": "completion", "label": "label"})],
        cut_at=32_767,
    ),
}
