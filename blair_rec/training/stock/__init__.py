"""The loss of RecBole's stock models, computed faster on a CPU: groups of similar length, and a softmax in chunks."""
