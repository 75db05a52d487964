"""Where a file that is written under a name ends up."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

__all__ = ["destination"]


def destination(path: str | os.PathLike[str]) -> Path:
    """The file that a name stands for, to be replaced by a finished one of another name.

    Symbolic links are followed, as `open` follows them: renaming onto a link would leave the file
    that it points to as it was, and put another one beside it.

    Raises:
        OSError: a device, a pipe or a socket. Renaming onto it would not write to it but remove it,
            /dev/null for everybody.
    """
    target = Path(os.path.realpath(path))
    try:
        mode = target.stat().st_mode
    except FileNotFoundError:
        return target
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise OSError(errno.EINVAL, "not a file, but a device, a pipe or a socket", os.fspath(path))
    return target
