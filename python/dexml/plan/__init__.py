"""What a training will cost, before it begins: steps, tokens, time, memory, what will not fit.

Arithmetic only: quantities in (`PlanInput`, made by `dexml.plan.forecast`), speeds as measured
here (`dexml.plan.measure`), a plan out. Nothing is trained and no file is written.
"""

from dexml.plan.quantities import Machine, Part, Phase, Plan, PlanInput, Speed
from dexml.plan.room import machine, resident
from dexml.plan.text import as_text
from dexml.plan.work import expected_batches, plan

__all__ = [
    "Machine",
    "Part",
    "Phase",
    "Plan",
    "PlanInput",
    "Speed",
    "as_text",
    "expected_batches",
    "machine",
    "plan",
    "resident",
]
