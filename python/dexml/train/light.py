"""A light training: words, a label tree and a ranker; no transformer, no torch, seconds.

The same story as `dexml.train.run`: select on held-out points, then build from all points, save,
score the test part.
"""

from __future__ import annotations

NO_ENCODER = "none"
"""The encoder of a light run."""
REPORTED = ("P@1", "P@3", "P@5", "nDCG@5", "PSP@1", "PSP@5", "R@10", "R@100")
