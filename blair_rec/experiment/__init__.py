"""The main job: plan, train, tune, rank and write the runs of a comparison, and load them again."""
