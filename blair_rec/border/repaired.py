"""Importing this repairs RecBole: the first import of every module and folder that imports RecBole."""

from blair_rec.border.patches import repair_recbole

repair_recbole()
