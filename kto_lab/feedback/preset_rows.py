"""What rows of a tool are turned into where a mapping of columns cannot say it: trees, histories, prompts in common.

A function here takes a row and returns rows, with every column that it does not read as it was. It raises ValueError,
which says what is wrong, where the row is not as the tool writes it.
"""

import itertools
from collections.abc import Mapping
from typing import Any, TypeAlias

from kto_lab.feedback.asked import is_conversation, messages_of
from kto_lab.feedback.messages import decoded, role_of
from kto_lab.feedback.scale import number_of

Row: TypeAlias = dict[str, Any]
# The words by which a row is left out, for `labels`.
NOT_RANKED, NO_WINNER = "no two ranked answers", "no winner"
_PROMPTS = ("prompt", "question", "instruction", "input", "query", "messages", "conversations", "context_messages")
_OUTCOMES = {"model_a": "winner_model_a", "model_b": "winner_model_b", "tie": "winner_tie"}


def alpaca(row: Row) -> list[Row]:
    """Instruction and input are one user message, as LLaMA-Factory joins them, after the system prompt and the history.

    Raises:
        ValueError: a turn of the history is not a question and an answer.
    """
    texts = [row.get(name) for name in ("instruction", "input")]
    asked = "\n".join(text for text in texts if isinstance(text, str) and text.strip())
    messages = [{"role": "user", "content": asked}]
    for turn in reversed(decoded(row.get("history")) or []):
        if not isinstance(turn, list | tuple) or len(turn) != 2:
            raise ValueError(f"a turn of 'history' is {turn!r:.60}, not a question and an answer")
        messages[:0] = [{"role": "user", "content": turn[0]}, {"role": "assistant", "content": turn[1]}]
    if isinstance(row.get("system"), str) and row["system"].strip():
        messages.insert(0, {"role": "system", "content": row["system"]})
    return [{**_without(row, "instruction", "input", "history", "system"), "prompt": messages}]


def common_prompt(row: Row) -> list[Row]:
    """The words that two texts have in common at their beginning are their prompt.

    TRL takes the letters in common, and so part of a word where the answers begin with the same letter.

    Raises:
        ValueError: there are none.
    """
    chosen, rejected = row.get("chosen"), row.get("rejected")
    if not isinstance(chosen, str) or not isinstance(rejected, str):
        raise ValueError("'chosen' and 'rejected' are not both text")
    length = next(
        (number for number, (one, other) in enumerate(zip(chosen, rejected, strict=False)) if one != other),
        min(len(chosen), len(rejected)),
    )
    length = max(chosen[:length].rfind(" "), chosen[:length].rfind("\n"))
    if length < 1 or not chosen[:length].strip():
        raise ValueError("'chosen' and 'rejected' do not begin alike, so that they have no prompt in common")
    return [{**row, "prompt": chosen[:length], "chosen": chosen[length:], "rejected": rejected[length:]}]


def swift_pair(row: Row) -> list[Row]:
    """The rejected conversation of ms-swift: the chosen one with another answer at its end, or one of its own.

    Raises:
        ValueError: the conversation does not end with an answer.
    """
    messages = messages_of(row.get("messages"))
    if not isinstance(messages, list) or not messages or role_of(messages[-1]) != "assistant":
        raise ValueError("'messages' is not a conversation that ends with the assistant's turn")
    rejected = row.get("rejected_messages")
    if rejected is None:
        rejected = [*messages[:-1], {"role": "assistant", "content": row.get("rejected_response")}]
    return [{**_without(row, "rejected_response", "rejected_messages"), "messages": messages, "rejected": rejected}]


def tree(row: Row) -> list[Row]:
    """Each answer of a tree of OpenAssistant with the next worse one to the same conversation, by their ranks.

    A tree in which no two answers to one question are ranked gives one row, which is left out.

    Raises:
        ValueError: a message of the tree has no text, or a role that is not known.
    """
    pairs: list[Row] = []
    rest = _without(row, "prompt")
    waiting: list[tuple[Any, list[Row]]] = [(decoded(row.get("prompt")), [])]
    while waiting:
        message, before = waiting.pop()
        role = role_of(message)
        if role not in ("user", "assistant") or not isinstance(message.get("text"), str):
            raise ValueError(f"a message of the tree is {message!r:.60}, without a text or a role")
        messages = [*before, {"role": role, "content": message["text"]}]
        replies = [reply for reply in message.get("replies") or () if not reply.get("deleted")]
        waiting += [(reply, messages) for reply in reversed(replies)]
        ranked = [reply for reply in replies if number_of(reply.get("rank")) is not None] if role == "user" else []
        ranked.sort(key=lambda reply: float(reply["rank"]))
        for better, worse in itertools.pairwise(ranked):
            if better["rank"] != worse["rank"]:
                chosen, rejected = better.get("text"), worse.get("text")
                pairs.append({**rest, "prompt": messages, "chosen": chosen, "rejected": rejected, "ranked": True})
    return pairs or [{**rest, "prompt": None, "chosen": None, "rejected": None, "ranked": NOT_RANKED}]


def arena_columns(row: Row) -> list[Row]:
    """The winner, where each outcome of a vote has a column of 0 or 1.

    Raises:
        ValueError: several outcomes are said at once.
    """
    said = [winner for winner, column in _OUTCOMES.items() if number_of(row.get(column)) == 1]
    if len(said) > 1:
        raise ValueError(f"{' and '.join(_OUTCOMES[winner] for winner in said)} are 1 at once")
    return [{**_without(row, *_OUTCOMES.values()), "winner": said[0] if said else NO_WINNER}]


def whole_conversations(row: Row) -> str | None:
    """Why the two answers of a row are not whole conversations; None where they are."""
    for column in ("chosen", "rejected"):
        messages = messages_of(row.get(column))
        if not (isinstance(messages, list) and len(messages) > 1) and not is_conversation(row.get(column)):
            return f"the column {column!r} does not hold a whole conversation"
        if isinstance(messages, list) and role_of(messages[0]) == "assistant":
            return f"the column {column!r} begins with the assistant's turn"
    return None


def texts_alone(row: Row) -> str | None:
    """Why a row is not two texts that begin with their prompt; None where it is."""
    wrong = [column for column in ("chosen", "rejected") if not isinstance(row.get(column), str)]
    if wrong:
        return f"the column {wrong[0]!r} does not hold text"
    prompts = [column for column in _PROMPTS if column in row]
    return f"the column {prompts[0]!r} holds the prompt" if prompts else None


def trees(row: Row) -> str | None:
    """Why a row is no tree; None where it is one."""
    prompt = decoded(row.get("prompt"))
    if isinstance(prompt, Mapping) and isinstance(prompt.get("replies"), list):
        return None
    return "the column 'prompt' does not hold a message with replies"


def _without(row: Row, *names: str) -> Row:
    return {name: value for name, value in row.items() if name not in names}
