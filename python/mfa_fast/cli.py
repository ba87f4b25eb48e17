"""The command `mfa-fast`: turns what goes wrong into one line and an exit code.

The commands themselves are in `mfa_fast._commands`, which needs the packages of the `experiments`
extra.
"""

import codecs
import sys
import warnings
from collections.abc import Sequence
from io import TextIOWrapper
from typing import TextIO

USAGE_ERROR = 2
INTERRUPTED = 130
_NAMES = "mfa_fast.names"


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
        codecs.register_error(_NAMES, _as_it_can_be_written)
        sys.stdout.reconfigure(errors=_NAMES)
    try:
        code = _invoke(arguments)
    except KeyboardInterrupt:
        code = INTERRUPTED
    if code == INTERRUPTED:
        print("mfa-fast: interrupted", file=sys.stderr)
    return code


def _as_it_can_be_written(error: UnicodeError) -> tuple[str | bytes, int]:
    """Give what an encoding has no character for: names of files that are no text as their bytes, the rest as "?"."""
    try:
        return codecs.lookup_error("surrogateescape")(error)
    except UnicodeError:
        return codecs.lookup_error("replace")(error)


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
