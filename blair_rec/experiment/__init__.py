"""The main job: plan, fit, tune, rank and write the runs of a comparison, and load them again."""
