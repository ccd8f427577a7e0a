"""`python -m api.cli`: the same as the command `cinemill`."""

import sys

from api.cli import main

sys.exit(main())
