"""Write files so that a reader never sees half of one."""

import os
from pathlib import Path

from lossspec.errors import ReportError

#: Bytes of a file that is read: 50 times the report on torch.nn (1,495 cells in 1.3 MB).
LARGEST_FILE = 64 * 2**20


def read_file(path: str | os.PathLike[str], limit: int = LARGEST_FILE) -> bytes:
    """Return the bytes of a file; ReportError when it cannot be read or holds more than `limit`.

    No more than that is read, so that a device such as /dev/zero ends too.
    """
    try:
        with Path(path).open("rb") as file:
            data = file.read(limit + 1)
    except OSError as error:
        raise ReportError(f"cannot be read ({error.strerror})") from None
    if len(data) > limit:
        raise ReportError(f"is larger than {limit // 2**20} MiB, which is the limit")
    return data


def replace_file(path: str | os.PathLike[str], text: str) -> None:
    """Write ``text`` to ``path`` in UTF-8, making its folder; a reader never sees half a file."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        # A lone surrogate is not UTF-8; its backslash form is what JSON writes for it anyway.
        temporary.write_bytes(text.encode("utf-8", "backslashreplace"))
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
