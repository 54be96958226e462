"""Late import: load a package only when one of its attributes is used."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec, module_from_spec
from types import ModuleType
from typing import Any

__all__ = ["import_late"]


def import_late(name: str) -> None:
    """Make `import NAME` bind a module that loads itself when one of its attributes is used.

    Do nothing if the package is loaded already or not installed. `importlib.util.LazyLoader` is
    similar, but in Python 3.11 a second `import NAME` loads the module, and
    `from NAME.part import word` runs the part twice.
    """
    if name in sys.modules or (found := find_spec(name)) is None or found.loader is None:
        return
    module = module_from_spec(found)
    module.__class__ = _LateModule
    sys.modules[name] = module
    sys.meta_path.insert(0, _PartFinder(name))


class _LateModule(ModuleType):
    """A module that is not loaded yet."""

    def __getattr__(self, name: str) -> Any:
        _load(self)
        return getattr(self, name)


def _load(module: ModuleType) -> None:
    """Run the code of a module that is not loaded yet."""
    module.__class__ = ModuleType
    spec = module.__spec__
    assert spec is not None
    assert spec.loader is not None
    try:
        spec.loader.exec_module(module)
    except BaseException:
        sys.modules.pop(spec.name, None)  # as an ordinary import does
        raise


class _PartFinder(MetaPathFinder):
    """A finder that loads a late package before the first import of one of its parts."""

    def __init__(self, package: str) -> None:
        self.package = package

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return the spec of a part that the package imports itself; None for other modules."""
        if not fullname.startswith(f"{self.package}."):
            return None
        package = sys.modules.get(self.package)
        if not isinstance(package, _LateModule):
            return None
        _load(package)
        if (part := sys.modules.get(fullname)) is None:
            return None
        spec = ModuleSpec(fullname, _Imported(part))
        part.__spec__ = spec  # with the module's own spec, importlib would run its code again
        return spec


class _Imported(Loader):
    """A loader that returns a module that is already imported."""

    def __init__(self, module: ModuleType) -> None:
        self.module = module
        self.spec = module.__spec__

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """Return the module."""
        return self.module

    def exec_module(self, module: ModuleType) -> None:
        """Restore the module's own spec, which importlib has replaced."""
        module.__spec__ = self.spec
