"""``python -m covidxr.run PROFILE``, or ``--compare RUN …``: the commands ``run`` and ``compare``."""

import sys

from covidxr.run.cli import main

words = sys.argv[1:]
sys.exit(main(["compare", *words[1:]] if words[:1] == ["--compare"] else ["run", *words]))
