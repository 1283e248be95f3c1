"""`python -m blair_rec.cli` is `blair-rec`."""

import sys

from blair_rec.cli import main

sys.exit(main())
