"""RecBole's atomic files -> event log -> sequences -> data set."""

import blair_rec.border.repaired  # noqa: F401  (repairs RecBole before anything of it is used)
