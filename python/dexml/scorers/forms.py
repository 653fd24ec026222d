"""In which form an exported encoder is computed on this machine, and what training said of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, cast

from dexml.encoder.engine import FORMS, Form

if TYPE_CHECKING:
    from dexml.encoder.engine_openvino import OpenVino


def form_here(
    asked: Literal["auto", "float32", "bfloat16", "int8"], chosen: Mapping[str, Any]
) -> tuple[Form, str]:
    """Return the form to compute in, and a note if it is not the one that training chose.

    Args:
        asked: The precision that was asked for; ``auto``: as training chose.
        chosen: Section ``engine`` of the manifest; empty: float32 was chosen.

    Raises:
        ValueError: This processor does not multiply what was asked for.
    """
    from dexml.encoder.engine_openvino import forms

    able = forms()
    if asked != "auto":
        if asked not in able:
            raise ValueError(
                f"precision = {asked!r}: this processor multiplies {', '.join(able)}; give auto"
            )
        return asked, ""
    wanted = chosen.get("form", "float32")
    if wanted in able:
        return cast(Form, wanted), ""
    other: Form = next(form for form in FORMS if form in able)
    said = said_of(wanted, chosen)
    return other, _instead(f"this processor does not multiply {wanted}", said, other)


def is_timed(asked: str, chosen: Mapping[str, Any]) -> bool:
    """Whether forms are timed here: another processor than this one chose one for its speed."""
    from dexml.encoder.engine_openvino import processor

    fast = asked == "auto" and chosen.get("form", "float32") != "float32"
    return fast and chosen.get("processor") != processor()


def if_worth_it(engine: OpenVino, chosen: Mapping[str, Any]) -> tuple[OpenVino, str]:
    """Return the engine, or one in float32 and a note if its form is not faster on this machine.

    Measured for some milliseconds; to be asked where forms are to be timed (`is_timed`).
    """
    from dexml.encoder.engine_speed import is_faster, sample_tokens, seconds

    if engine.form == "float32":
        return engine, ""
    whole = engine.with_form("float32")
    fast, slow = seconds([engine, whole], sample_tokens(), rounds=3)
    if is_faster(fast, slow):
        return engine, ""
    said = said_of(engine.form, chosen)
    return whole, _instead(f"{engine.form} is no faster on this processor", said, "float32")


def _instead(why: str, said: str, other: str) -> str:
    return (
        f"{why}, the form that training chose{said}; texts are encoded in {other}, labels keep the "
        "vectors of the training"
    )


def said_of(form: str, chosen: Mapping[str, Any]) -> str:
    """Say what the validation part said of a form against float32, in brackets."""
    row = chosen.get("trained")
    if row is None or form != chosen.get("form"):
        compared = chosen.get("compared", [])
        row = next((row for row in compared if row["form"] == form and "P@1" in row), None)
    if row is None:
        return ""
    found = [
        f"{name} {100 * row[name]['difference']:+.2f} "
        f"[{100 * row[name]['low']:+.2f}, {100 * row[name]['high']:+.2f}]"
        for name in ("P@1", "R@100")
    ]
    return f" ({', '.join(found)} against float32 on {row['points']} points)"
