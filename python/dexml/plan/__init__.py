"""What a training will cost, before it begins: steps, tokens, time, memory, what will not fit.

Quantities in (`PlanInput`, counted by `dexml.plan.forecast`), speeds as measured here
(`dexml.plan.measure`), a plan out. Nothing is trained and no file is written.
"""

from dexml import console

console.require("train", "torch")

# isort: split
from dexml.plan.memory import machine, resident
from dexml.plan.quantities import Machine, Part, Plan, PlanInput, PlannedStage, Speed
from dexml.plan.text import as_text
from dexml.plan.work import expected_batches, plan

__all__ = [
    "Machine",
    "Part",
    "Plan",
    "PlanInput",
    "PlannedStage",
    "Speed",
    "as_text",
    "expected_batches",
    "machine",
    "plan",
    "resident",
]
