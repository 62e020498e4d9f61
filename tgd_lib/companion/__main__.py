"""`python -m tgd_lib.companion`: the command line, where ./run_all.sh is not at hand."""

import sys

from tgd_lib.companion.runner import main

sys.exit(main())
