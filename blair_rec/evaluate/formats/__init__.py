"""Renderings of a leaderboard for other programs."""
