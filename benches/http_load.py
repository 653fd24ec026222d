"""Measure the web service of docs/examples/service.py: latency beside direct calls.

python benches/http_load.py RUN TEXTS.txt [--requests 400] [--clients 4]

Starts the service on this machine, asks it one text a request over connections that stay open, by
one client and by several at once, and the same texts to `Predictor` in this process.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from dexml.data import load_texts
from dexml.predict import Predictor

EXAMPLES = Path(__file__).parents[1] / "docs" / "examples"


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def start(run: Path, port: int) -> subprocess.Popen[bytes]:
    """Start the service, and wait until it answers."""
    command = [sys.executable, "-m", "uvicorn", "--app-dir", str(EXAMPLES), "service:app"]
    command += ["--port", str(port), "--log-level", "warning"]
    server = subprocess.Popen(command, env={**os.environ, "RUN": str(run)})
    for _ in range(600):
        if server.poll() is not None:
            raise SystemExit("error: the service ended; its message is above")
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
            connection.request("GET", "/health")
            if connection.getresponse().status == 200:
                return server
        except OSError:
            time.sleep(0.1)
    server.terminate()
    raise SystemExit("error: the service does not answer")


def client(port: int) -> Callable[[str, int], None]:
    """Return a function that asks one text over a connection that stays open."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)

    def ask(text: str, k: int) -> None:
        body = json.dumps({"texts": [text], "k": k})
        connection.request("POST", "/predict", body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        content = answer.read()
        if answer.status != 200:
            raise RuntimeError(f"{answer.status}: {content[:200]!r}")

    return ask


def times(ask: Callable[[str, int], None], texts: list[str]) -> list[float]:
    """Seconds of each call, after two that are not counted."""
    seconds = []
    for text in [*texts[:2], *texts]:
        started = time.perf_counter()
        ask(text, 5)
        seconds.append(time.perf_counter() - started)
    return seconds[2:]


def line(name: str, seconds: list[float], wall: float) -> str:
    p50, p99 = 1e3 * np.quantile(seconds, [0.5, 0.99])
    return f"{name:28}{p50:8.1f}{p99:8.1f}{len(seconds) / wall:8.0f}"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("texts", type=Path)
    parser.add_argument("--requests", type=int, default=400, help="of each client")
    parser.add_argument("--clients", type=int, default=4)
    args = parser.parse_args()
    given = load_texts(args.texts)
    texts = [given[i % len(given)] for i in range(args.requests)]

    print(f"{'one text, k = 5':28}{'p50 ms':>8}{'p99 ms':>8}{'a s':>8}")
    predictor = Predictor.open(args.run, threads=1)

    def direct(text: str, k: int) -> None:
        predictor.labels(predictor.predict([text], k).ids)

    started = time.perf_counter()
    seconds = times(direct, texts)
    print(line("Predictor, called directly", seconds, time.perf_counter() - started))
    port = free_port()
    server = start(args.run, port)
    try:
        for n in dict.fromkeys((1, args.clients)):
            started = time.perf_counter()
            with ThreadPoolExecutor(n) as pool:
                each = list(pool.map(lambda _: times(client(port), texts), range(n)))
            wall = time.perf_counter() - started
            name = f"service, {n} client" + "s" * (n > 1)
            print(line(name, [value for values in each for value in values], wall))
    finally:
        server.terminate()
        server.wait()


if __name__ == "__main__":
    main()
