"""A finished run as a folder that recommends without torch, RecBole and this package."""
