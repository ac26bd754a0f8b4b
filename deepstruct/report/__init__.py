"""What an analysis found, as an object to look up, print, save, plot and compare."""

from __future__ import annotations

from deepstruct.report.compare import compare
from deepstruct.report.drift import Drift
from deepstruct.report.orders import NotMeasured, OrderReport
from deepstruct.report.report import Report
from deepstruct.report.table import Conventions, Table

__all__ = ["Conventions", "Drift", "NotMeasured", "OrderReport", "Report", "Table", "compare"]
