"""The command `lossspec`, run as `python -m lossspec`."""

import sys

from lossspec.cli import main

sys.exit(main())
