"""What is read must be a file: opening a pipe would wait for its writer, for ever without one."""

from __future__ import annotations

import os
import stat

from gt_infer.errors import CheckpointError

__all__ = ["check_is_file"]


def check_is_file(path: str | os.PathLike[str]) -> None:
    """Refuses pipes, devices and sockets; what is missing, or a folder, `open` refuses itself.

    Raises: CheckpointError.
    """
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise CheckpointError(f"{path}: is a pipe or a device, expected a file")
