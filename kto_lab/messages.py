"""What an exception says to a person, where a person can mend its cause: ours, Hydra's, and the file system's."""

import difflib
import errno
import re

from kto_lab.errors import LabError
from kto_lab.memory import explanation, shortage_behind

# What a file system says that a person can mend.
REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.ENOTDIR, errno.EEXIST)


def explain(error: BaseException) -> str | None:
    """The message for a person behind an exception, or None where there is none.

    Hydra wraps what a constructor raises; an unknown or missing key reaches it as a TypeError.
    """
    from hydra.errors import HydraException, InstantiationException
    from omegaconf.errors import OmegaConfBaseException

    if (shortage := shortage_behind(error)) is not None:
        return explanation(shortage, "what this command does")
    causes = [error]
    while causes[-1].__cause__ is not None:
        causes.append(causes[-1].__cause__)
    for cause in causes:
        if isinstance(cause, LabError):
            return str(cause)
    for cause in causes:
        if isinstance(cause, OSError) and cause.errno in REFUSED:
            return _refused(cause)
    if isinstance(error, InstantiationException):
        return _unfit(error)
    if isinstance(error, HydraException):
        return _not_composed(error)
    if isinstance(error, OmegaConfBaseException):
        return f"The configuration does not fit: {error}"
    return None


def _refused(error: OSError) -> str:
    """What a file system refused."""
    if error.errno in (errno.EACCES, errno.EPERM):
        return f"Could not open {error.filename}: {error.strerror}. Change its permissions, or name another."
    return f"Could not write {error.filename}: {error.strerror}. Free some space or choose another folder."


def _not_composed(error: BaseException) -> str:
    """What Hydra says of a command line that does not compose, with the nearest key that there is."""
    from omegaconf.errors import ConfigAttributeError, ConfigKeyError

    cause = error.__cause__
    if isinstance(cause, ConfigAttributeError | ConfigKeyError) and cause.parent_node is not None:
        near = difflib.get_close_matches(str(cause.key), [str(key) for key in cause.parent_node], n=1)
        parent = str(cause.full_key).rpartition(".")[0]
        hint = f" Did you mean {'.'.join(filter(None, [parent, near[0]]))!r}?" if near else ""
        return f"There is no key {str(cause.full_key)!r} in the configuration.{hint} --cfg job shows all keys."
    text = str(error).partition("\nConfig search path")[0]
    return f"The configuration cannot be composed: {text}" + (f"\n{cause}" if cause else "")


def _unfit(error: BaseException) -> str:
    """What is wrong with the node that a constructor refused."""
    text = str(error)
    found = re.search(r"full_key: (\S+)", text)
    node = found[1] if found else ""
    if unknown := re.search(r"unexpected keyword argument '(\w+)'", text):
        return f"There is no key '{node}.{unknown[1]}': nothing would read it. --cfg job shows all keys."
    if "takes no arguments" in text:
        return f"The configuration node '{node}' takes no keys: nothing would read them."
    if missing := re.search(r"missing \d+ required [\w-]+ arguments?: (.+?)\"?\)?\n", text):
        return f"The configuration node '{node}' lacks {missing[1]}."
    return f"The configuration does not fit: {text}"
