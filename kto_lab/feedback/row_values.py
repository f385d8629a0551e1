"""What a row of the table of examples holds, checked: its prompt, its completion and its label."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from kto_lab.errors import LabError
from kto_lab.feedback.whole import is_message, is_more_than_text, whole, with_results_as_turns

# Imported for its type alone: it takes seconds.
if TYPE_CHECKING:
    from kto_lab.models.tokens import Prompt

ROLES = ("system", "user", "assistant", "tool")


def check_label(value: Any, where: str) -> bool:
    """The label as a bool; LabError unless it is true or false."""
    if isinstance(value, bool):
        return value
    raise LabError(
        f"{where}: the label is {value!r}, which is not a boolean. Use true or false, or map your values with "
        "feedback.labels (for example feedback.labels='{up: true, down: false}') or feedback.up_from and down_to."
    )


def check_completion(completion: Any, where: str) -> str | dict[str, str]:
    """The completion: text, or an assistant's message where it is more than text.

    Raises LabError when it is empty, neither of the two, or text that cannot be stored.
    """
    if isinstance(completion, Mapping) and completion.get("role") == "assistant":
        message = _storable_message(whole(completion, where), where)
        if message["content"].strip() or "tool_calls" in message:
            return message if is_more_than_text(message) else message["content"]
    return check_text(completion, where)


def check_text(completion: Any, where: str) -> str:
    """The completion unchanged; LabError when it is empty, not text, or text that cannot be stored."""
    if not isinstance(completion, str) or not completion.strip():
        raise LabError(f"{where}: the completion is empty or not text. Remove the row or fill it in.")
    return _storable(completion, where)


def _storable(text: str, where: str) -> str:
    """The text unchanged; LabError where it has half a surrogate pair, which JSON can spell and UTF-8 cannot hold."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        half = text[error.start]
        raise LabError(f"{where}: a text holds {half!r}, half a character. Repair or remove the row.") from error
    return text


def _storable_message(message: dict[str, str], where: str) -> dict[str, str]:
    return {key: _storable(text, where) for key, text in message.items()}


def check_prompt(prompt: Any, where: str) -> "Prompt":
    """The prompt in canonical form: text, or a list of messages (see `whole`) that ends with a turn to answer.

    Raises LabError when it is neither, or empty.
    """
    if isinstance(prompt, str):
        if not prompt.strip():
            raise LabError(f"{where}: the prompt is empty. Remove the row or fill it in.")
        return _storable(prompt, where)
    if not isinstance(prompt, list) or not prompt:
        raise LabError(f"{where}: the prompt is {prompt!r}; it must be text or a list of chat messages.")
    messages = []
    for message in with_results_as_turns(prompt):
        if not is_message(message, ROLES):
            raise LabError(
                f"{where}: a chat message is {message!r}; each needs a 'role' ({', '.join(ROLES)}) and a text "
                "as 'content'."
            )
        messages.append(_storable_message(whole(message, where), where))
    if messages[-1]["role"] == "assistant":
        raise LabError(f"{where}: the prompt ends with the assistant's turn; the completion must be the answer to it.")
    return messages
