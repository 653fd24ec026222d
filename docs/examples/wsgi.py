"""A web service for one run, behind a server that forks its workers.

RUN=runs/demo/light gunicorn --preload --workers 4 wsgi:app
"""

import json
import os
from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import parse_qs

from dexml.predict import Predictor

# With --preload once, before the workers are forked: they share labels, points and tf-idf rows.
# One thread a call, because each worker answers on its own.
predictor = Predictor.open(os.environ["RUN"], threads=1)


def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """Answer ``/?text=...`` with the best labels."""
    text = parse_qs(environ.get("QUERY_STRING", "")).get("text", [""])[0]
    ids, scores = predictor.predict([text], 5)
    hits = dict(zip(predictor.labels(ids)[0], scores[0].tolist(), strict=False))
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps(hits).encode()]
