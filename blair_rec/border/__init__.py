"""The border to RecBole: repairs, settings and its collector. Importing it repairs RecBole."""

from blair_rec.border.compat import repair_recbole

repair_recbole()
