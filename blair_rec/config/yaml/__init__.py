"""From a YAML file to plain values: reading it, and finding the files that it names."""
