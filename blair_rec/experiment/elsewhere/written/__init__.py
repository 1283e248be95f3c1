"""Files that other systems read: the cases of a split, and the top lists of our own runs."""
