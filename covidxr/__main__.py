"""``python -m covidxr``: the command line."""

import sys

from covidxr.run.cli import main

sys.exit(main())
