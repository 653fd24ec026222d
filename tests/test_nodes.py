"""Training on two nodes: two agents of torchrun on one machine, with caches of their own."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch.distributed as dist

from dexml import train
from small import assert_same, train_settings

pytestmark = [
    pytest.mark.skipif(not dist.is_available(), reason="torch without distributed"),
    pytest.mark.skipif(sys.platform == "win32", reason="gloo over sockets of Unix"),
]


@pytest.mark.timeout(400)
def test_two_nodes_train_as_one_process(
    tiny_data: Path, tiny_encoder: Path, tmp_path: Path
) -> None:
    """The run folder is shared, the caches are not."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    out, one = tmp_path / "two", tmp_path / "one"
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "GLOO_SOCKET_IFNAME": "lo",
        "OMP_NUM_THREADS": "1",
    }
    agents = [
        subprocess.Popen(
            [
                *(sys.executable, "-m", "torch.distributed.run", "--nnodes", "2"),
                *("--node-rank", str(node), "--nproc-per-node", "1"),
                *("--master-addr", "127.0.0.1", "--master-port", str(port)),
                *("-m", "dexml.train", str(tiny_data), "--out", str(out)),
                *("--encoder", str(tiny_encoder), "--cache", str(tmp_path / f"cache-{node}")),
                *("--head-epochs", "2", "--head-batch-size", "64", "--seed", "1"),
                *("--ranker", "none", "--engine", "torch", "--deterministic", "--quiet"),
            ],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for node in (0, 1)
    ]
    try:
        shown = [agent.communicate(timeout=300)[0] for agent in agents]
    finally:
        for agent in agents:
            agent.kill()
    assert [agent.returncode for agent in agents] == [0, 0], shown
    train.train(
        train_settings(
            tiny_data,
            tiny_encoder,
            one,
            head_epochs=2,
            deterministic=True,
            cache=str(tmp_path / "own"),
        )
    )
    assert_same(one, out)
