"""The shipped specs, one module for each loss."""

import pkgutil

__all__ = [module.name for module in pkgutil.iter_modules(__path__)]
