"""The artifact of a run: its records, and how they are read, written and merged."""

from lossspec.report.merge import merge
from lossspec.report.records import Cell, Environment, Report, TestedImplementation
from lossspec.report.verdict import Verdict

__all__ = ["Cell", "Environment", "Report", "TestedImplementation", "Verdict", "merge"]
