"""Text files read line by line: RecBole's atomic files, and lines that can't be used."""
