"""A real process, killed for real."""

import random
import subprocess
import sys
import time
from pathlib import Path

from jobs import FINGERPRINT, reopened

import checkpoint

WRITER = """
import os, sys
from itertools import count
from pathlib import Path
import checkpoint

run = sys.argv[2]
with checkpoint.open(Path(sys.argv[1]), {"model": "shapes", "seed": 0}) as record:
    for number in count():
        id = f"{run}-{number}"
        row = b'{"id":"%s","caption":"of %s"}' % ((id.encode(),) * 2)
        record.append(checkpoint.FILES[number % 3 == 0], [(id, row)])
        os.write(1, f"+{id}\\n".encode())
        if number % 7 == 6:
            record.commit()
        if number % 50 == 49:
            os.write(1, f"?{id}\\n".encode())
            record.withdraw(checkpoint.FILES[number % 3 == 0], [id])
            os.write(1, f"-{id}\\n".encode())
"""


def test_rows_survive_kill_9_at_random_instants(out):
    """Each run tells which rows it appended (+), is about to withdraw (?), and withdrew (-)."""
    random.seed(3)
    must, may = set(), set()
    for run in range(12):
        command = [sys.executable, "-c", WRITER, out, str(run)]
        process = subprocess.Popen(command, cwd=Path(checkpoint.__file__).parents[1], stdout=subprocess.PIPE, text=True)
        said = [process.stdout.readline()]
        time.sleep(random.random() * 0.2)
        process.kill()
        said += process.communicate()[0].splitlines(keepends=True)
        for line in said:
            sign, id = line[0], line[1:].strip()
            (must.add if sign == "+" else must.discard)(id)
            (may.add if sign == "?" else may.discard)(id)
        assert len(said) > 1
        with checkpoint.open(out, FINGERPRINT) as record:
            assert all(record.done(list(must)))
    found = {id: line for file in reopened(out).values() for id, line in file.items()}
    assert must <= found.keys()
    untold = [id.split("-")[0] for id in found.keys() - must - may]
    assert len(untold) == len(set(untold)), "a run can die between an append and telling it, once"
    assert all(line == b'{"id":"%s","caption":"of %s"}' % ((id.encode(),) * 2) for id, line in found.items())
