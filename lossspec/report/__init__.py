"""The artifact of a run."""

from lossspec.report.merge import merge
from lossspec.report.records import Cell, Environment, Report, Tested
from lossspec.report.verdict import Verdict

__all__ = ["Cell", "Environment", "Report", "Tested", "Verdict", "merge"]
