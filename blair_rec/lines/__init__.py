"""Text files line by line: RecBole's atomic files, and the lines that can't be used."""
