"""The command `mfa-fast`: turns what goes wrong into one line and an exit code.

The commands themselves are in `mfa_fast._commands`, which needs the packages of the `experiments`
extra.
"""

import sys
import warnings
from collections.abc import Sequence
from io import TextIOWrapper
from typing import TextIO

USAGE_ERROR = 2
INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command `mfa-fast`.

    Parameters
    ----------
    arguments : sequence of str or None
        None: those of the process.

    Returns
    -------
    int
        Exit code: 0; 2 if something was wrong with the arguments or the data; 130 if interrupted.
    """
    if isinstance(sys.stdout, TextIOWrapper):
        # Names of files need not be text: they are printed as the bytes that they are.
        sys.stdout.reconfigure(errors="surrogateescape")
    try:
        code = _invoke(arguments)
    except KeyboardInterrupt:
        code = INTERRUPTED
    if code == INTERRUPTED:
        print("mfa-fast: interrupted", file=sys.stderr)
    return code


def _invoke(arguments: Sequence[str] | None) -> int:
    try:
        from mfa_fast import _commands
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("mfa_fast"):
            raise
        return _fail(f'{error.name} is not installed: pip install "mfa_fast[experiments]"')
    with warnings.catch_warnings():
        warnings.showwarning = _show_warning
        try:
            return _commands.invoke(arguments)
        except OSError as error:
            return _fail(f"{error.strerror}: {error.filename}" if error.filename else error)
        except MemoryError as error:
            return _fail(f"out of memory: {error}")
        except (ValueError, TypeError, ImportError) as error:  # NotFittedError is a ValueError
            return _fail(error)


def _fail(error: object) -> int:
    # One line, whatever the message holds.
    print("mfa-fast: error:", " ".join(str(error).split()), file=sys.stderr)
    return USAGE_ERROR


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    print("mfa-fast: warning:", " ".join(str(message).split()), file=file or sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
