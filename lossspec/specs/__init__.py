"""One file for each loss; only baselines and known deviations also know losses by name."""

import pkgutil

__all__ = [module.name for module in pkgutil.iter_modules(__path__)]
