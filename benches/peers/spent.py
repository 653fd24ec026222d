"""Runs a command and writes what it spent: CPU seconds, seconds, peak memory, exit status.

    python -S -m peers.spent OUT.json COMMAND...

CPU seconds are user and system time of the command and of its children, from its start to its end.
This process stays small, because the kernel counts the memory of whoever starts a program as the
first memory of that program.
"""

import json
import os
import subprocess
import sys
import time


def main() -> int:
    out, *command = sys.argv[1:]
    started = time.perf_counter()
    process = subprocess.Popen(command)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    spent = {
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 1),
        "seconds": round(seconds, 1),
        "peak_mb": round(usage.ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)),
    }
    with open(out, "w", encoding="utf-8") as file:
        json.dump(spent, file)
    return 1 if process.returncode else 0


if __name__ == "__main__":
    sys.exit(main())
