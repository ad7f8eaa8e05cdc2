"""``python -m zclient`` is the program `zclient`."""

import sys

from zclient.cli import main

sys.exit(main())
