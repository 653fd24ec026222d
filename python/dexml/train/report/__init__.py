"""``report.html``: what a training did, on one page that needs nothing but itself.

Pure functions: `write_report` takes the settings, the log and the scores of a run as arguments.
"""

from dexml.train.report.curves import read_log
from dexml.train.report.sections import Predictions
from dexml.train.report.write import FILE, command, write_report

__all__ = ["FILE", "Predictions", "command", "read_log", "write_report"]
