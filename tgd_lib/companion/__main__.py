"""`python -m tgd_lib.companion`: the command line, where ./run_all.sh is not at hand."""

import sys

from tgd_lib.companion import INTERRUPTED

try:
    from tgd_lib.companion.command import main

    status = main()
except KeyboardInterrupt:  # in the first moments, before `main` listens
    print(f"\n{INTERRUPTED}", file=sys.stderr)
    status = 130
sys.exit(status)
