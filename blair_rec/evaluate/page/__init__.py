"""leaderboard.html: a comparison as one self-contained page, made from a leaderboard and the files of its runs."""
