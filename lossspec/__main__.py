"""`python -m lossspec` is the command lossspec."""

import sys

from lossspec.cli import main

sys.exit(main())
