"""``python -m mile_edge`` is ``mile-edge``."""

import sys

from mile_edge.cli.main import main

sys.exit(main())
