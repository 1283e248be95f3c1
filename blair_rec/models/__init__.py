"""RecBole sequential models with their item embedding replaced."""

import blair_rec.border.apply_patches  # noqa: F401  (repairs RecBole before anything of it is used)
