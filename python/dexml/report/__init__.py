"""``report.html``: what a training did, on one page that needs nothing but itself.

Pure functions: `write_report` takes the settings, the log and the scores of a run as arguments.
"""

from dexml.report.sections import Predictions
from dexml.report.write import FILE, command, write_report

__all__ = ["FILE", "Predictions", "command", "write_report"]
