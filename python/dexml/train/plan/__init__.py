"""What a training will cost, before it begins: steps, tokens, time, memory, what will not fit.

Arithmetic only: quantities in (`PlanInput`, made by `dexml.train.forecast`), speeds as measured
here (`dexml.train.measure`), a plan out. Nothing is trained and no file is written.
"""

from dexml.train.plan.quantities import Machine, Part, Phase, Plan, PlanInput, Speed
from dexml.train.plan.room import machine, resident
from dexml.train.plan.text import as_text
from dexml.train.plan.work import expected_batches, plan

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
