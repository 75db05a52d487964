"""What every command line tool does alike: errors are one line, never a traceback."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from ..errors import GtError

__all__ = ["printable", "run"]

EXIT_ERROR = 2  # as argparse uses for wrong arguments
EXIT_INTERRUPTED = 130  # 128 + SIGINT, as shells report it


def run(command: Callable[[], int]) -> int:
    """Run a tool and turn what a user can cause into `error: ...` on stderr.

    Returns: the exit status: the command's own; 2 after an error of gt_infer or of the system
        (such as a full disk); 130 after Ctrl-C.
    """
    _open_missing_streams()
    try:
        status = command()
        sys.stdout.flush()
        return status
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        # What is still buffered would fail again when the interpreter flushes it at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_ERROR
    except GtError as err:
        message = str(err)
    except MemoryError:
        message = "not enough memory"
    except OSError as err:
        where = f"{os.fsdecode(err.filename)}: " if err.filename is not None else ""
        message = f"{where}{err.strerror or err}"
    print(f"error: {printable(message)}", file=sys.stderr)
    return EXIT_ERROR


def _open_missing_streams() -> None:
    """A caller that closed stdout or stderr (`>&-`) wants no output, and no error about it."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115


def printable(text: str) -> str:
    """Text from a file or path, made harmless: control characters could steer a terminal."""
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )
