"""Says which notebooks' twins are not in step with their sources; exit status 1 if any is not."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tgd_lib.companion import twins  # noqa: E402

problems = []
for source in sorted((ROOT / "notebooks").glob("*.py")):
    problems += twins.check(source, source.with_suffix(".ipynb"))
print(*problems, sep="\n", end="\n" if problems else "")
sys.exit(bool(problems))
