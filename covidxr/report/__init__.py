"""A run's page, the comparison of runs, the gallery, the model card and the CLAIM checklist."""

from covidxr.report.compare import compare_runs
from covidxr.report.page import write_page

__all__ = ["compare_runs", "write_page"]
