"""A web service for one run: answers, new labels, health; it follows saves of other processes.

RUN=runs/demo/light uvicorn --app-dir docs/examples service:app --workers 4
"""

import logging
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from threading import Event, Lock, Thread
from typing import Annotated, Any

from fastapi import FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from dexml.predict import Predictor

log = logging.getLogger("service")
MAX_BODY = 1 << 20
Text = Annotated[str, Field(min_length=1, max_length=10_000)]


class Ask(BaseModel):
    """The body of ``/predict``."""

    model_config = ConfigDict(extra="forbid")
    texts: list[Text] = Field(min_length=1, max_length=64)
    k: int = Field(5, ge=1, le=100)


class New(BaseModel):
    """The body of ``/labels``."""

    model_config = ConfigDict(extra="forbid")
    texts: list[Text] = Field(min_length=1, max_length=64)


class Service:
    """A run that is open. Its `predictor` is replaced as a whole: calls under way keep theirs."""

    def __init__(self, run: str) -> None:
        self.manifest = Path(run) / "run.json"
        self.editing = Lock()
        self.open()

    def open(self) -> None:
        """Open the run as it is on disk now."""
        stamp = self.stamp()  # before: a save in between is seen the next time
        self.predictor = Predictor.open(self.manifest.parent, threads=1)
        self.opened = stamp

    def stamp(self) -> tuple[int, int]:
        """Return what changes with every save."""
        facts = self.manifest.stat()
        return facts.st_mtime_ns, facts.st_ino

    def follow(self) -> None:
        """Open the run again if another process saved it."""
        with self.editing:
            try:
                if self.stamp() != self.opened:
                    self.open()
                    log.info("opened %s again", self.manifest.parent)
            except (OSError, ValueError):
                log.exception("cannot open the new run; the old one goes on answering")


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Open the run before the first request, and look for saves of others every few seconds."""
    app.state.service = service = Service(os.environ["RUN"])
    ending, seconds = Event(), float(os.environ.get("FOLLOW_SECONDS", "5"))

    def watch() -> None:
        while not ending.wait(seconds):
            service.follow()

    Thread(target=watch, daemon=True).start()
    yield
    ending.set()


app = FastAPI(lifespan=lifespan)


@app.middleware("http")
async def limit(request: Request, call_next: Any) -> Any:
    """Refuse a body that is too large before it is read."""
    length = request.headers.get("content-length", "")
    if request.method == "POST" and not length.isdigit():
        return JSONResponse({"detail": "Content-Length is missing"}, 411)
    if length.isdigit() and int(length) > MAX_BODY:
        return JSONResponse({"detail": f"body of {length} bytes, at most {MAX_BODY}"}, 413)
    return await call_next(request)


@app.exception_handler(RequestValidationError)
async def wrong(request: Request, error: RequestValidationError) -> JSONResponse:
    """Say in one line what is wrong with a request, without repeating it."""
    first = error.errors()[0]
    place = ".".join(map(str, first["loc"][1:]))
    return JSONResponse({"detail": f"{place}: {first['msg']}" if place else first["msg"]}, 422)


@app.post("/predict")
def predict(ask: Ask) -> list[list[dict[str, Any]]]:
    """Answer texts with their best labels. FastAPI calls this in a thread of its own."""
    predictor, started = app.state.service.predictor, time.perf_counter()
    try:
        found = predictor.predict(ask.texts, ask.k)
    except ValueError as error:  # such as a lone surrogate
        raise HTTPException(400, str(error)) from None
    probable = found.probabilities
    hits = [
        [
            {
                "id": int(found.ids[row, at]),
                "label": label,
                "score": float(found.scores[row, at]),
                "probability": None if probable is None else float(probable[row, at]),
            }
            for at, label in enumerate(labels)
        ]
        for row, labels in enumerate(predictor.labels(found.ids))
    ]
    log.info("%d texts in %.1f ms", len(hits), 1e3 * (time.perf_counter() - started))
    return hits


@app.post("/labels", status_code=201)
def add_labels(new: New) -> dict[str, list[int]]:
    """Add labels and save the run: all or nothing."""
    service = app.state.service
    with service.editing:
        try:
            ids = service.predictor.add_labels(new.texts).tolist()
        except ValueError as error:
            raise HTTPException(400, str(error)) from None
        try:
            service.predictor.save()
        except (RuntimeError, OSError) as error:  # another process saved, or edits the run now
            service.open()  # without the labels
            raise HTTPException(409, str(error)) from None
        service.opened = service.stamp()
    log.info("added labels %s", ids)
    return {"ids": ids}


@app.get("/health")
def health() -> dict[str, Any]:
    """Say that the run answers, and which it is."""
    predictor = app.state.service.predictor
    predictor.predict(["health"], 1)
    return {"run": predictor.run.folder.name, "labels": predictor.label_set.n_alive}
