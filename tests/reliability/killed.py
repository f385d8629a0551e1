"""For the tests: `kto-lab` in processes that are killed (SIGKILL) at one of their changes to the files of a folder.

Reads a command per line from the standard input, as JSON: the folder, the number of the change (counted from 1; 0 for
none), and the words. Each is run by a fork of this process, so that what takes seconds is imported once. Files that are
opened to be written count, and folders and names that are made, moved or removed. Writes a line per command: the exit
status (-9 for a killed one) and how many changes there were, 0 where it was killed.
"""

import json
import os
import signal
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Any

CHANGES = {"os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link"}
WRITING = os.O_WRONLY | os.O_RDWR


def run(folder: str, last: int, words: list[str], counted: Path) -> int:
    """Run a command, and return its exit status."""
    done = 0

    def count(event: str, details: tuple[Any, ...]) -> None:
        nonlocal done
        changes = event in CHANGES or (event == "open" and isinstance(details[2], int) and details[2] & WRITING)
        if changes and str(details[0]).startswith(folder):
            done += 1
            if done == last:
                os.kill(os.getpid(), signal.SIGKILL)

    from kto_lab import cli

    sys.addaudithook(count)
    sys.argv = ["kto-lab", *words]
    try:
        cli.main()
        status = 0
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else 1
    except BaseException:
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    counted.write_text(str(done))
    return status


def main() -> None:
    """Serve commands until the standard input ends."""
    import kto_lab.runs.command
    import kto_lab.sweeps.sweep  # noqa: F401

    with tempfile.TemporaryDirectory() as own:
        counted, said = Path(own) / "changes", Path(own) / "said"
        for line in sys.stdin:
            counted.unlink(missing_ok=True)
            process = os.fork()
            if process == 0:
                output = os.open(said, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
                os.dup2(output, 1)
                os.dup2(output, 2)
                os._exit(run(*json.loads(line), counted))
            status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
            if status not in (0, -signal.SIGKILL):
                sys.stderr.write(said.read_text())
            print(json.dumps([status, int(counted.read_text()) if counted.exists() else 0]), flush=True)


if __name__ == "__main__":
    main()
