"""Files that are read up to a limit, and replaced as a whole."""

import os
from pathlib import Path

from lossspec.errors import ReportError

#: The largest file that is read, in bytes: 30 times the report on torch.nn (2.0 MB).
LARGEST_FILE = 64 * 2**20


def read_file(path: str | os.PathLike[str], limit: int = LARGEST_FILE) -> bytes:
    """Return the bytes of a file.

    At most one byte beyond the limit is read, so that reading a device such as /dev/zero ends.

    Args:
        path: The path of the file.
        limit: The largest size that is allowed, in bytes.

    Raises:
        ReportError: The file cannot be read, or is larger than the limit.
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
    """Write text to a file in UTF-8, and make its folder; no reader sees a half-written file."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        # UTF-8 cannot encode a lone surrogate; JSON has the same backslash escape for it.
        temporary.write_bytes(text.encode("utf-8", "backslashreplace"))
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
