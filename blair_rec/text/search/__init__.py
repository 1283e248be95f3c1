"""Search items by a sentence, and measure how well the search works."""
