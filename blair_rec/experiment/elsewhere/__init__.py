"""Other systems: the split goes out as plain files, and their recommendations come back as runs."""
