"""The comparison file and the `blair_*` keys: read, checked and written."""
