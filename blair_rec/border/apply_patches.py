"""Importing this module repairs RecBole. Every module or folder that imports RecBole imports this one first."""

from blair_rec.border.patches import repair_recbole

repair_recbole()
