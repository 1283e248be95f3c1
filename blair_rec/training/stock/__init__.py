"""The loss of RecBole's stock models, computed faster on a CPU: groups of like length, and a softmax in chunks."""
