"""The command `mfa-fast`, as tests call it."""

import subprocess
import sys

from mfa_fast.cli import main

# Options that make the main job quick.
N_ATTACKED = 40
QUICK = ["--train-samples", "300", "--attack-samples", str(N_ATTACKED), "--max-iter", "20"]


def command(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "mfa_fast.cli", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def fails(capsys, *arguments):
    """Return the one line of an expected failure."""
    code = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    lines = [line for line in captured.err.splitlines() if line.strip()]
    assert code == 2
    assert len(lines) == 1, captured.err
    assert lines[0].startswith("mfa-fast: error: ")
    assert "Traceback" not in captured.out + captured.err
    return lines[0]
