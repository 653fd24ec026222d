"""Runs whose parts hold any bytes under seals that fit: refused, or answered, and nothing else.

Damage is found by the seals (`flips`). Here somebody has sealed the damage, so that it comes to the
readers behind: of arrays, archives, vocabularies, texts, label trees, rankers, graphs, manifests.
"""

import json
import random
import shutil
import time
from pathlib import Path
from typing import Any

from dexml.files import digest_of, seal_of, spelled
from dexml.predict import Predictor
from faults.forked import outcome

LIMIT = 60
"""Seconds that an answer may take."""
REFUSED = 3
"""Exit code of a process in which a run was refused as it should be."""
ODD = [0, 1, -1, 2, 127, 255, 2**15, 2**31 - 1, -(2**31), 2**31, 2**62, 2**63 - 1, -(2**63)]


def mutated(content: bytes, others: list[bytes], rng: random.Random) -> bytes:
    """Change some bytes: flips, odd numbers, cuts, repetitions, pieces of other files."""
    out = bytearray(content)
    for _ in range(rng.choice([1, 1, 1, 2, 5])):
        # Headers are at the start, and few bytes in large files.
        near = rng.random() < 0.5
        at = rng.randrange(min(len(out), 200) if near else len(out)) if out else 0
        match rng.randrange(6):
            case 0 if out:
                out[at] ^= 1 << rng.randrange(8)
            case 1:
                size = rng.choice([1, 4, 8])
                number = rng.choice(ODD) % 256**size
                out[at : at + size] = number.to_bytes(size, "little")
            case 2:
                del out[at : at + rng.choice([1, 8, 100, len(out)])]
            case 3:
                out[at:at] = out[at : at + rng.choice([1, 8, 100, 5000])]
            case 4:
                other = rng.choice(others)
                start = rng.randrange(len(other) + 1)
                out[at : at + 64] = other[start : start + rng.choice([4, 64, 4096])]
            case 5:
                out[at : at + 16] = rng.randbytes(rng.choice([1, 16]))
    return bytes(out)


def changed_number(value: Any, rng: random.Random) -> Any:
    """A JSON value with one odd value somewhere in it."""
    if isinstance(value, dict) and value:
        key = rng.choice(sorted(value))
        return value | {key: changed_number(value[key], rng)}
    if isinstance(value, list) and value and rng.random() < 0.8:
        at = rng.randrange(len(value))
        return [*value[:at], changed_number(value[at], rng), *value[at + 1 :]]
    odd: list[Any] = [*ODD, 0.5, -0.0, float("inf"), float("nan"), None, True, "", "x", [], {}]
    return rng.choice(odd)


def ask(folder: Path) -> None:
    """Open the run, and use all of it; a refusal is a ValueError of one line that names a file."""
    try:
        predictor = Predictor.open(folder, threads=1)
        predictor.predict(["kernel driver a b", "music", ""], 5)
        predictor.explain_best("printer library c", 2)
        predictor.add_labels(["another label"])
        predictor.predict(["another label"], 5)
    except (ValueError, FileNotFoundError) as error:
        if "\n" in str(error):
            raise
        raise SystemExit(REFUSED) from None
    except MemoryError:
        raise SystemExit(REFUSED) from None


def forge(source: Path, seconds: float, rng: random.Random, scratch: Path) -> dict[str, Any]:
    """Change a part or the manifest of a run at random, seal it, and ask, for some time."""
    folder, log = scratch / "forged", scratch / "forged.log"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(source, folder)
    manifest = json.loads((folder / "run.json").read_text())
    whole = {role: (folder / part["name"]).read_bytes() for role, part in manifest["parts"].items()}
    tried = refused = 0
    faults: list[str] = []
    end = time.monotonic() + seconds
    roles = sorted(role for role in whole if not role.endswith("README.md"))
    while time.monotonic() < end:
        content = json.loads(json.dumps(manifest))
        role = rng.choice([*roles, "", "", ""])
        if role:
            path = folder / manifest["parts"][role]["name"]
            path.write_bytes(mutated(whole[role], list(whole.values()), rng))
            for seal in content["parts"].values():
                if seal["name"] == content["parts"][role]["name"]:
                    seal.update(seal_of(path))
        else:
            keys = [key for key in content if key not in ("parts", "digest", "format_version")]
            key = rng.choice(keys)
            content[key] = changed_number(content[key], rng)
        content["digest"] = digest_of(content)
        (folder / "run.json").write_text(spelled(content))
        tried += 1
        code = outcome(lambda: ask(folder), LIMIT, log)
        if code == REFUSED:
            refused += 1
        elif code != 0:
            faults.append(f"{role or 'run.json'} ({code})")
            kept = scratch / f"fault-{len(faults)}"
            shutil.copytree(folder, kept, dirs_exist_ok=True)
            shutil.copyfile(log, kept / "fault.log")
        if role:
            path.write_bytes(whole[role])
    return {
        "tried": tried,
        "refused": refused,
        "answered": tried - refused - len(faults),
        "faults": faults,
    }
