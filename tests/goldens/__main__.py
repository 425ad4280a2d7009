"""`python -m tests.goldens [DIR]`: checks the cases of the index in DIR (default: the ones beside this file)."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.goldens.case import HERE
from tests.goldens.runner import main

sys.exit(main(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE))
