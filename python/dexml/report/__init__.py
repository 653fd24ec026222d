"""``report.html``: what a training did, on one page that needs nothing but itself."""

from dexml import console

console.require("light", "jinja2")

# isort: split
from dexml.report.inputs import Evaluation, Training
from dexml.report.page import FILE, write_report

__all__ = ["FILE", "Evaluation", "Training", "write_report"]
