"""Implementations that are named by a file: `path/to/file.py` or `path/to/file.py:attribute`."""

from __future__ import annotations

import importlib.util
import re
import sys
import zlib
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType

from lossspec.errors import ImplementationError
from lossspec.execution.loading import told

_PATH = re.compile(r"(.*\.py)(?::(.*))?", re.DOTALL)


def parts(name: str) -> tuple[str, str] | None:
    """Return the path and the attribute in a name, or None if the name does not name a file."""
    match = _PATH.fullmatch(name)
    return (match[1], match[2] or "") if match else None


def loaded(name: str) -> ModuleType:
    """Import the file that a name starts with; modules beside the file can be imported too.

    Args:
        name: `path/to/file.py`, with or without `:attribute`.

    Returns:
        The module.

    Raises:
        ImplementationError: The file is missing, or a line of it raised.
    """
    path, attribute = parts(name) or (name, "")
    if attribute.startswith(":"):
        raise ImplementationError(
            f"--impl {name}: write one colon before an attribute; "
            f"try {path}:{attribute.lstrip(':')}"
        )
    file = found(path)
    if not file.is_file():
        raise ImplementationError(f"--impl {name}: {_absent(name, path)}")
    module_name = name_of(file)
    if module_name in sys.modules:
        return sys.modules[module_name]
    if sys.path[:1] != [str(file.parent)]:  # where `python file.py` looks first
        sys.path.insert(0, str(file.parent))
    spec = importlib.util.spec_from_file_location(module_name, file)
    assert spec is not None, "every path that ends in .py has a loader"
    assert spec.loader is not None
    module = sys.modules[module_name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException as error:  # a SystemExit or pytest skip in the file must not end the run
        sys.modules.pop(module_name, None)
        if isinstance(error, KeyboardInterrupt):
            raise
        what = told(error, (str(file), path))
        raise ImplementationError(f"--impl {name}: {what}{_cure(error, file)}") from error
    return module


def found(path: str) -> Path:
    """Return the absolute path of a typed one, relative to the current directory."""
    try:
        return Path(path).expanduser().resolve()
    except (OSError, RuntimeError, ValueError):  # a link loop, an unknown user, a null byte
        return Path(path)


def name_of(file: Path) -> str:
    """Return the name of a file's module: its stem, unless another module has that name."""
    stem = re.sub(r"\W", "_", file.stem)
    return stem if _holds(stem, file) else f"{stem}_{zlib.crc32(str(file).encode()):08x}"


def _holds(name: str, file: Path) -> bool:
    """Return whether a module name is free or already belongs to the file."""
    if name not in sys.modules:
        return True
    held = getattr(sys.modules[name], "__file__", None)
    return held is not None and found(held) == file


def _cure(error: BaseException, file: Path) -> str:
    """Say how to fix an import error that a file has only because it is named by its path."""
    if isinstance(error, ImportError) and "relative import" in str(error):
        folders = [file.parent]
        while (folders[0] / "__init__.py").is_file():
            folders.insert(0, folders[0].parent)
        module = ".".join([*(folder.name for folder in folders[1:]), file.stem])
        if len(folders) > 1:
            return f"; the file is part of a package: run in {folders[0]} with --impl={module}"
        return "; a file that is named by its path cannot use relative imports: remove the dot"
    if isinstance(error, ImportError) and error.path and found(error.path) == file:
        return f"; this file hides the module {file.stem!r}: rename the file"
    return ""


def beside(path: str, attribute: str = "") -> str:
    """Suggest a file for a name that is a path without `.py` or a part of a path with commas."""
    file = Path(f"{path}.py")
    if path and file.is_file():
        rest = f":{attribute.lstrip(':')}" if attribute else ""
        return f"; did you mean {file}{rest}?"
    if "/" in path and Path(path).is_dir():
        return f"; it is {_inside(Path(path))}"
    return _comma(Path(path))


def stems() -> list[str]:
    """Return the modules that can be imported from the current directory."""
    return sorted(file.stem for file in Path().glob("*.py"))


def _absent(name: str, path: str) -> str:
    """Say that a path is not a file, and suggest one."""
    file = Path(path)
    if file.is_dir():
        return f"{path!r} is {_inside(file)}"
    near = _comma(file) or _near(file)
    if not near and not file.is_absolute() and (module := _module(file)):
        near = f"; try {module}{name[len(path) :]}"
    return f"there is no file {path!r}{near}"


def _inside(folder: Path) -> str:
    """List the Python files of a directory for a message."""
    files = sorted(file.name for file in folder.glob("*.py"))
    return f"a directory; name a file in it: {_some(files)}" if files else "a directory"


def _comma(file: Path) -> str:
    """Say that commas separate names, if a path is a part of a file name with commas."""
    try:
        names = sorted(other.name for other in file.parent.iterdir() if "," in other.name)
    except (OSError, ValueError):
        return ""
    whole = next((name for name in names if file.name and file.name in name.split(",")), None)
    return f"; commas separate implementations, so {whole!r} needs another name" if whole else ""


def _near(file: Path) -> str:
    """Suggest a file with a similar name, in the same folder or in a similar one."""
    folder = file.parent
    if not folder.is_dir():
        above = next((parent for parent in folder.parents if parent.is_dir()), Path())
        wanted = folder.relative_to(above).parts[0]
        others = [other.name for other in above.iterdir() if other.is_dir()]
        near = [above / other / file.name for other in get_close_matches(wanted, others)]
        near = [other for other in (*near, Path(file.name)) if other.is_file()]
        return f"; did you mean {near[0]}?" if near else ""
    files = sorted(other.name for other in folder.glob("*.py"))
    if near_names := get_close_matches(file.name, files, 1):
        return f"; did you mean {folder / near_names[0]}?"
    return ""


def _module(file: Path) -> str:
    """Return the dotted name of a path if a module of that name can be imported, else ""."""
    name = ".".join(part for part in file.with_suffix("").parts if part != ".")
    try:
        return name if importlib.util.find_spec(name) is not None else ""
    except (ImportError, ValueError, AttributeError):
        return ""


def _some(names: list[str]) -> str:
    return ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
