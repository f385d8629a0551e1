"""What the clients of the Hugging Face hub raise, as a sentence that says what to do."""

from collections.abc import Iterator

from huggingface_hub import constants
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

TOKEN = "give a token of that account with HF_TOKEN, or by `hf auth login`"


def explain(error: BaseException, name: str, *, kind: str, key: str) -> str | None:
    """What an error of the hub's clients, or one that it caused, means; None where it is none of theirs.

    Args:
        error: as it was raised.
        name: of the repository.
        kind: what it holds: "model" or "dataset".
        key: the node of the configuration that names it, such as "feedback".
    """
    chain = list(_chain(error))

    def met(*kinds: type[BaseException]) -> BaseException | None:
        return next((one for one in chain if isinstance(one, kinds)), None)

    page = f"{constants.ENDPOINT}/{'datasets/' if kind == 'dataset' else ''}{name}"
    if met(GatedRepoError):
        return f"The {kind} {name!r} is gated: accept its licence at {page}, and {TOKEN}."
    if met(RevisionNotFoundError):
        return f"The {kind} {name!r} has no such revision; {page} has its branches and tags. Mend {key}.revision."
    if met(RepositoryNotFoundError):
        return (
            f"There is no {kind} {name!r} at {constants.ENDPOINT}, or it is private: check {key}.name, and for a "
            f"private one {TOKEN}."
        )
    if constants.HF_HUB_OFFLINE and met(OfflineModeIsEnabled, LocalEntryNotFoundError, ConnectionError):
        return (
            f"The {kind} {name!r} is not in the cache, and HF_HUB_OFFLINE is set: unset it to fetch the {kind}, run "
            f"`hf download {name}{' --repo-type dataset' if kind == 'dataset' else ''}` where the hub is reachable and "
            f"copy the cache, or give a folder as {key}.name."
        )
    # Clients look for files that a repository need not have, and go on.
    refused = met(HfHubHTTPError)
    if refused is not None and not isinstance(refused, RemoteEntryNotFoundError):
        return f"The hub refused what was asked of it for {name!r}: {first_line(refused)}. Check the name, and {TOKEN}."
    broken = next((one for one in chain if is_of_network(one)), None)
    if broken is not None:
        return (
            f"The {kind} {name!r} could not be fetched from {constants.ENDPOINT} ({first_line(broken)}). Run the "
            "command again when the network is well: files that came in full are kept, and one that broke off is never "
            f"used. Without network, give a folder as {key}.name."
        )
    return None


def is_of_network(error: BaseException) -> bool:
    """Whether a connection was not made, or broke off."""
    # By name: the client of the hub has changed its HTTP library more than once.
    kinds = {kind.__name__ for kind in type(error).__mro__}
    return isinstance(error, LocalEntryNotFoundError | ConnectionError | TimeoutError) or "TransportError" in kinds


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error, what it was raised from, and so on."""
    seen = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def first_line(error: BaseException) -> str:
    """What an error says first, to stand within a sentence; its kind, where it says nothing."""
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__
