"""`python -m tests.simulation --steps 1000000 --seed 1`"""

from __future__ import annotations

import sys

from .command import main

sys.exit(main())
