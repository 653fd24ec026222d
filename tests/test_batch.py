"""Batches answered in other processes: a pool, Ray Data, Spark."""

import importlib.util
import multiprocessing
import os
import pickle
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dexml import data
from dexml.predict import BatchPredictor, Predictor

K = 3


@pytest.fixture(scope="module")
def texts(tiny_data: Path) -> list[str]:
    return list(data.load_dataset(tiny_data).test_texts)


@pytest.fixture(scope="module")
def truth(light_run: Path, texts: list[str]) -> dict[str, list[str]]:
    predictor = Predictor.open(light_run)
    return dict(zip(texts, predictor.labels(predictor.predict(texts, K).ids), strict=True))


def test_batches_of_every_kind(light_run: Path, texts: list[str], truth: Any) -> None:
    answer = BatchPredictor(light_run, k=K)
    predicted = Predictor.open(light_run).predict(texts[:5], K)
    columns: Any = answer({"text": np.array(texts[:5], object), "row": np.arange(5)})
    assert columns["row"].tolist() == list(range(5))
    assert [list(row) for row in columns["labels"]] == [truth[text] for text in texts[:5]]
    assert np.stack(columns["label_ids"]).tolist() == predicted.ids.tolist()
    np.testing.assert_allclose(np.stack(columns["scores"]), predicted.scores, atol=1e-5)
    pandas = pytest.importorskip("pandas", reason="needs pandas")
    frame = answer(pandas.DataFrame({"text": texts[:5], "row": range(5)}))
    assert [list(row) for row in frame["labels"]] == [truth[text] for text in texts[:5]]
    pyarrow = pytest.importorskip("pyarrow", reason="needs pyarrow")
    table = answer(pyarrow.table({"text": texts[:5], "row": list(range(5))}))
    assert table["labels"].to_pylist() == [truth[text] for text in texts[:5]]
    assert table.column_names[:5] == ["text", "row", "label_ids", "labels", "scores"]


def work(answer: BatchPredictor, texts: list[str]) -> list[list[str]]:
    rows: Any = answer({"text": np.array(texts, object)})["labels"]
    return [list(row) for row in rows]


def test_it_is_pickled_and_opens_in_the_worker(
    light_run: Path, texts: list[str], truth: Any
) -> None:
    answer = BatchPredictor(light_run, k=K)
    assert len(pickle.dumps(answer)) < 1000
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        found = pool.apply(work, (answer, texts[:5]))
    assert found == [truth[text] for text in texts[:5]]


def test_another_version_of_the_run_is_refused(light_run: Path, tmp_path: Path) -> None:
    own = shutil.copytree(light_run, tmp_path / "run")
    answer = BatchPredictor(own)
    predictor = Predictor.open(own)
    predictor.add_labels(["a new label"])
    predictor.save()
    with pytest.raises(ValueError, match="was asked for; copy the right one here"):
        answer({"text": np.array(["kernel"], object)})
    again = BatchPredictor(own)
    assert again.version != answer.version
    assert len(again({"text": np.array(["kernel"], object)})["labels"][0]) == 10
    with pytest.raises(ValueError, match="was asked for"):
        BatchPredictor(own, version=answer.version)
    with pytest.raises(FileNotFoundError):
        BatchPredictor(tmp_path / "nowhere")


def test_wrong_batches_and_options(light_run: Path) -> None:
    with pytest.raises(TypeError, match="unknown option top_k"):
        BatchPredictor(light_run, top_k=3)
    answer = BatchPredictor(light_run, only=[1, 2])
    with pytest.raises(ValueError, match=r"no column 'text' \(columns: body\)"):
        answer({"body": ["a"]})
    with pytest.raises(TypeError, match="batch is str"):
        answer("a text")
    assert {*answer({"text": ["kernel"]})["label_ids"][0].tolist()} <= {1, 2}  # type: ignore[attr-defined]


RAY = """
import sys
import ray
from dexml.predict import BatchPredictor

run, out, *texts = sys.argv[1:]
ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
rows = ray.data.from_items([{"text": text} for text in texts], override_num_blocks=4)
answered = rows.map_batches(BatchPredictor(run, k=3), batch_size=8, batch_format="pyarrow")
answered.write_parquet(out)
kept = rows.map_batches(
    BatchPredictor, fn_constructor_args=(run,), fn_constructor_kwargs={"k": 3},
    batch_size=8, batch_format="pyarrow", compute=ray.data.ActorPoolStrategy(size=2),
)
assert sorted(map(str, kept.take_all())) == sorted(map(str, answered.take_all()))
"""


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs ray[data]")
@pytest.mark.timeout(400)
def test_ray_data_answers_in_two_workers(
    light_run: Path, texts: list[str], truth: Any, tmp_path: Path
) -> None:
    found = answered_by(RAY, light_run, texts, tmp_path / "out")
    assert found == {text: truth[text] for text in texts}


SPARK = """
import sys
from pyspark.sql import SparkSession
from dexml.predict import BatchPredictor

run, out, *texts = sys.argv[1:]
spark = (
    SparkSession.builder.master("local[2]").config("spark.ui.enabled", "false")
    .config("spark.driver.bindAddress", "127.0.0.1").config("spark.driver.host", "127.0.0.1")
    .getOrCreate()
)
answer = BatchPredictor(run, k=3)
rows = spark.createDataFrame([(text,) for text in texts], "text string").repartition(3)
rows.mapInPandas(answer.frames, f"text string, {answer.schema}").write.parquet(out)
spark.stop()
"""


@pytest.mark.skipif(
    importlib.util.find_spec("pyspark") is None or shutil.which("java") is None,
    reason="needs pyspark and a JRE",
)
@pytest.mark.timeout(400)
def test_spark_answers_in_its_workers(
    light_run: Path, texts: list[str], truth: Any, tmp_path: Path
) -> None:
    found = answered_by(SPARK, light_run, texts, tmp_path / "out")
    assert found == {text: truth[text] for text in texts}


def answered_by(script: str, run: Path, texts: list[str], out: Path) -> dict[str, list[str]]:
    """Run a script in a process of its own; return what it has written as Parquet."""
    import subprocess

    parquet = pytest.importorskip("pyarrow.parquet", reason="needs pyarrow")
    paths = os.pathsep.join(path for path in sys.path if path)
    more = {"PYTHONPATH": paths, "PYSPARK_PYTHON": sys.executable, "RAY_USAGE_STATS_ENABLED": "0"}
    command = [sys.executable, "-c", script, str(run), str(out), *texts]
    done = subprocess.run(
        command, capture_output=True, text=True, env=os.environ | more, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    rows = [row for path in out.glob("*.parquet") for row in parquet.read_table(path).to_pylist()]
    return {row["text"]: row["labels"] for row in rows}
