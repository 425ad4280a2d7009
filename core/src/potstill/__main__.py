"""`python -m potstill`, which `accelerate launch -m potstill run …` starts."""

from __future__ import annotations

import sys

from potstill.cli import main

if __name__ == "__main__":
    sys.exit(main())
