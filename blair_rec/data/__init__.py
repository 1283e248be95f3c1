"""From RecBole's atomic files to an event log, training sequences and a data set."""

import blair_rec.border.apply_patches  # noqa: F401  (repairs RecBole before any part of it is used)
