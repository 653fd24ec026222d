"""Labels that are held out of training, and the published feature files."""

from pathlib import Path

import numpy as np
import pytest
from scipy.sparse import csr_array

from dexml import data
from dexml.data.__main__ import main
from dexml.data.unseen import TEST_LABELS, VALIDATION_LABELS

N, L = 300, 40


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(0)
    folder = tmp_path_factory.mktemp("data") / "set"
    y = csr_array((rng.random((N, L)) < 0.05).astype(np.float32))
    texts = [f"point {i}" for i in range(N)]
    data.save_dataset(folder, [f"label {i}" for i in range(L)], (texts, y), (texts[:50], y[:50]))
    data.save_pairs(
        folder / "filter_labels_train.txt", csr_array(y[:, :] * (rng.random((N, L)) < 0.5))
    )
    return folder


def test_held_out_labels_are_nowhere_in_training(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "unseen"
    held = data.hold_out_labels(source, target, share=0.2, seed=3)
    trn, val, tst = (data.load_part(target, part, L) for part in ("trn", "val", "tst"))
    gone = np.concatenate([held.test, held.validation])
    assert len(held.test)
    assert len(held.validation)
    assert not np.intersect1d(held.test, held.validation).size
    for matrix in (trn.y, trn.exclude):
        assert matrix is not None
        assert not np.isin(matrix.indices, gone).any()
    assert not np.isin(val.y.indices, held.test).any()
    assert np.isin(val.y.indices, held.validation).any()
    assert np.isin(tst.y.indices, held.test).any()

    whole = data.load_part(source, "trn", L)
    assert sorted(trn.texts + val.texts) == sorted(whole.texts)
    kept = whole.y.toarray()[[whole.texts.index(text) for text in trn.texts]]
    kept[:, gone] = 0
    np.testing.assert_array_equal(trn.y.toarray(), kept)
    np.testing.assert_array_equal(tst.y.toarray(), data.load_part(source, "tst", L).y.toarray())
    assert data.load_texts(target / TEST_LABELS) == [str(i) for i in held.test]
    assert data.load_texts(target / VALIDATION_LABELS) == [str(i) for i in held.validation]
    assert data.load_label_texts(target) == data.load_label_texts(source)


def test_the_choice_goes_by_the_seed_and_not_by_order(source: Path, tmp_path: Path) -> None:
    first, again, other = (
        data.hold_out_labels(source, tmp_path / str(i), share=0.2, seed=seed).test.tolist()
        for i, seed in enumerate((1, 1, 2))
    )
    assert first == again != other
    assert first != list(range(len(first)))


def test_wrong_shares_are_named(source: Path, tmp_path: Path) -> None:
    for share, message in (
        (0.5, "share = 0.5: give a share above 0"),
        (1e-9, "no label is held out"),
    ):
        with pytest.raises(ValueError, match=message):
            data.hold_out_labels(source, tmp_path / "x", share=share, seed=0)
    assert not (tmp_path / "x").exists()
    with pytest.raises(FileExistsError, match="exists already"):
        data.hold_out_labels(source, source, seed=0)


def test_the_command_says_what_it_held_out(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "unseen"
    main(["hold-out-labels", str(source), str(target), "--share", "0.2", "--seed", "3"])
    assert "labels for the test part alone" in capsys.readouterr().out
    main(["check", str(target)])


def features() -> data.FeatureSet:
    rng = np.random.default_rng(1)

    def random(*shape: int) -> csr_array:
        return csr_array((rng.random(shape) * (rng.random(shape) < 0.4)).astype(np.float32))

    return data.FeatureSet(
        ["fox", "box", "a_b"],
        ["fox", "1_box", "__label__0__fox", "2_a_b", "other"],
        random(6, 3),
        random(4, 5),
        csr_array((random(6, 4) > 0).astype(np.float32)),
        random(2, 3),
        csr_array((random(2, 4) > 0).astype(np.float32)),
        csr_array(np.array([[0, 1, 0, 0], [0, 0, 0, 0]], np.float32)),
    )


@pytest.mark.parametrize("packed", ["", ".gz", ".zst"])
def test_feature_files_come_back(tmp_path: Path, packed: str) -> None:
    given = features()
    data.save_features(tmp_path / "f", given, packed=packed)  # type: ignore[arg-type]
    found = data.load_features(tmp_path / "f")
    for name in ("x_train", "z", "y_train", "x_test", "y_test"):
        np.testing.assert_array_equal(
            getattr(found, name).toarray(), getattr(given, name).toarray()
        )
    assert found.exclude_test is not None
    assert found.exclude_test.nonzero()[1].tolist() == [1]
    assert (found.point_names, found.label_names) == (given.point_names, given.label_names)


def test_names_match_behind_the_first_underscore() -> None:
    assert features().direct.tolist() == [0, 1, -1, 2, -1]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("Xf.txt", "fox\nbox\nfox\n", r"Xf.txt:3: the same name as line 1, 'fox'"),
        ("Xf.txt", "fox\n", r"trn_X_Xf.txt:1: 3 columns, but .*Xf.txt has 1"),
        ("trn_X_Xf.txt", "2 3\n0:1\n7:1\n", r"trn_X_Xf.txt:3: label 7 out of range"),
        ("trn_X_Xf.txt", "1 3\n0:x\n", r"trn_X_Xf.txt:2: "),
        ("trn_X_Y.txt", "1 4\n0:1\n", r"trn_X_Y.txt:1: 1 rows, but .*trn_X_Xf.txt has 6"),
        ("Y_Yf.txt", "4\n", r"Y_Yf.txt:1: expected 'rows labels'"),
    ],
)
def test_wrong_feature_files_are_named_with_their_line(
    tmp_path: Path, name: str, content: str, message: str
) -> None:
    data.save_features(tmp_path / "f", features())
    (tmp_path / "f" / name).write_text(content)
    with pytest.raises(ValueError, match=message):
        data.load_features(tmp_path / "f")


def test_missing_feature_files_are_named(tmp_path: Path) -> None:
    data.save_features(tmp_path / "f", features())
    (tmp_path / "f" / "Yf.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"Yf\.txt"):
        data.load_features(tmp_path / "f")
