"""RecBole sequential models with their item side replaced."""
