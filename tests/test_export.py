"""Exported vectors and encoders give the ids that the run's own search gives."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from dexml import data
from dexml.commands.export import main as command
from dexml.console import run
from dexml.export import export
from dexml.predict import Predictor

K = 7


@pytest.fixture(scope="module")
def predictor(run_dir: Path) -> Predictor:
    """A run with edits: a removed label must not come back, an added one must be there."""
    opened = Predictor.open(run_dir, search="exact", threads=1)
    opened.remove_labels([3, 40])
    opened.add_labels(["kernel theme of a game"])
    return opened


@pytest.fixture(scope="module")
def texts(tiny_data: Path) -> list[str]:
    return [*data.load_dataset(tiny_data).test_texts[:20], "", "kernel " * 40]


@pytest.fixture(scope="module")
def truth(predictor: Predictor, texts: list[str]) -> tuple[NDArray[Any], NDArray[Any]]:
    """What the run's index finds."""
    return predictor.dense.index.search(predictor.encode(texts), K, search="exact")


def search_numpy(folder: Path, queries: NDArray[np.float32]) -> tuple[Any, Any]:
    ids = np.load(folder / "ids.npy")
    scores = queries @ np.load(folder / "vectors.npy").T
    order = np.argsort(-scores, axis=1, kind="stable")[:, :K]
    return ids[order], np.take_along_axis(scores, order, axis=1)


def search_faiss(folder: Path, queries: NDArray[np.float32]) -> tuple[Any, Any]:
    faiss = pytest.importorskip("faiss", reason="needs faiss-cpu")
    scores, ids = faiss.read_index(str(folder / "index.faiss")).search(queries, K)
    return ids, scores


def search_lancedb(folder: Path, queries: NDArray[np.float32]) -> tuple[Any, Any]:
    lancedb = pytest.importorskip("lancedb", reason="needs lancedb")
    table = lancedb.connect(str(folder)).open_table("labels")
    found = [table.search(q).distance_type("dot").limit(K).to_list() for q in queries]
    ids = [[hit["id"] for hit in hits] for hits in found]
    return np.array(ids), np.array([[1 - hit["_distance"] for hit in hits] for hits in found])


def search_qdrant(folder: Path, queries: NDArray[np.float32]) -> tuple[Any, Any]:
    qdrant = pytest.importorskip("qdrant_client", reason="needs qdrant-client")
    client = qdrant.QdrantClient(path=str(folder))
    found = [client.query_points("labels", query=q.tolist(), limit=K).points for q in queries]
    client.close()
    ids = [[hit.id for hit in hits] for hits in found]
    return np.array(ids), np.array([[hit.score for hit in hits] for hits in found])


SEARCHES = {
    "numpy": search_numpy,
    "faiss": search_faiss,
    "lancedb": search_lancedb,
    "qdrant": search_qdrant,
}
PACKAGES = {
    "numpy": ["numpy"],
    "faiss": ["faiss"],
    "lancedb": ["lancedb", "pyarrow"],
    "qdrant": ["qdrant_client"],
    "onnx": ["onnx", "onnxscript", "onnxruntime"],
}


@pytest.fixture(scope="module")
def exported(predictor: Predictor, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A folder of each kind; the test is skipped where a package is missing."""
    made: dict[str, Path] = {}

    def folder(kind: Any) -> Path:
        for package in PACKAGES[kind]:
            pytest.importorskip(package, reason=f"needs {package}")
        if kind not in made:
            made[kind] = tmp_path_factory.mktemp("exports") / kind
            export(predictor, kind, made[kind])
        return made[kind]

    return folder


@pytest.mark.filterwarnings("default")  # of other libraries
@pytest.mark.parametrize("kind", SEARCHES)
def test_an_exported_search_gives_the_ids_of_the_run(
    kind: str, exported: Any, predictor: Predictor, texts: list[str], truth: Any
) -> None:
    queries = predictor.encode(texts)
    ids, scores = SEARCHES[kind](exported(kind), queries)
    np.testing.assert_allclose(scores, truth[1], atol=1e-5)
    assert ids.tolist() == truth[0].tolist()
    assert not {3, 40} & set(ids.ravel().tolist())


@pytest.mark.filterwarnings("default")  # of the exporter
def test_an_exported_encoder_gives_the_ids_of_the_run(
    exported: Any, predictor: Predictor, texts: list[str], truth: Any
) -> None:
    folder = exported("onnx")
    import onnxruntime
    from tokenizers import Tokenizer

    about = json.loads((folder / "export.json").read_text())
    session = onnxruntime.InferenceSession(str(folder / "encoder.onnx"))
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))

    def encode(texts: list[str], side: str) -> Any:
        given = tokenizer.encode_batch([about[f"{side}_prompt"] + text for text in texts])
        inputs = {
            "input_ids": np.array([text.ids for text in given], np.int64),
            "attention_mask": np.array([text.attention_mask for text in given], np.int64),
        }
        return session.run(["query" if side == "point" else "label"], inputs)[0]

    queries = encode(texts, "point")
    np.testing.assert_allclose(queries, predictor.encode(texts), atol=1e-5)
    ids, _ = predictor.dense.index.search(queries, K, search="exact")
    assert ids.tolist() == truth[0].tolist()
    # A label that was added after the training has the vector of its text.
    added = predictor.n_labels - 1
    new = encode([predictor.label_texts[added]], "label")
    np.testing.assert_allclose(new[0], predictor.dense.index.vectors[added], atol=1e-5)


def test_labels_lie_beside_the_vectors(exported: Any, predictor: Predictor) -> None:
    lines = (exported("numpy") / "labels.jsonl").read_text().splitlines()
    labels = [json.loads(line) for line in lines]
    assert [label["id"] for label in labels] == np.load(exported("numpy") / "ids.npy").tolist()
    assert all(label["text"] == predictor.label_texts[label["id"]] for label in labels)
    assert labels[-1] == {"id": 64, "text": "kernel theme of a game", "count": 0}


def test_the_command_says_what_vectors_leave_out(
    run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from voting import voting_run

    voting = voting_run(run_dir, tmp_path / "run")
    out = tmp_path / "out"
    assert run(command, [str(voting), "--to", "numpy", "--out", str(out)]) == 0
    assert "the run itself adds votes of training points" in capsys.readouterr().err
    assert run(command, [str(voting), "--to", "numpy", "--out", str(out)]) == 1
    assert "--overwrite replaces it" in capsys.readouterr().err
    assert run(command, [str(voting), "--to", "numpy", "--out", str(out), "--overwrite"]) == 0
    (out / "export.json").unlink()
    assert run(command, [str(voting), "--to", "numpy", "--out", str(out), "--overwrite"]) == 1
    assert "is there, and is no export" in capsys.readouterr().err


def test_a_light_run_has_nothing_to_export(
    tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from dexml.train import TrainSettings, train

    light, out = tmp_path / "run", tmp_path / "out"
    train(TrainSettings(data_dir=tiny_data, out=light, encoder="none", quiet=True))
    for kind in ("numpy", "onnx"):
        assert run(command, [str(light), "--to", kind, "--out", str(out)]) == 1
        assert "a light run has no vectors" in capsys.readouterr().err
    assert not out.exists()


def test_a_missing_library_is_named(
    predictor: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dexml.console.is_installed", lambda name: False)
    with pytest.raises(ImportError, match=r"faiss is not installed.*dexml-xmc\[faiss\]"):
        export(predictor, "faiss", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
