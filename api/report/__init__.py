"""The demo's report: one page, one file, no network."""

from api.report.page import build_report, report_version

__all__ = ["build_report", "report_version"]
