"""``python -m mfa_fast``: the command `mfa-fast`."""

import sys

from mfa_fast.cli import main

if __name__ == "__main__":
    sys.exit(main())
