"""RecBole's atomic files -> event log -> sequences -> data set."""

import blair_rec.border  # noqa: F401  (repairs RecBole before anything of it is used)
