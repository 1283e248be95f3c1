"""The quickest way through a transformer, on a CPU and on a GPU."""
