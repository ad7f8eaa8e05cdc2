"""``python -m zworker`` is the program `zworker`."""

import sys

from zworker.cli import main

sys.exit(main())
