"""``python -m zbroker`` is the program `zbroker`."""

import sys

from zbroker.cli import main

sys.exit(main())
