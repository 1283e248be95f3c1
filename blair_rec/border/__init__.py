"""The border to RecBole: repairs, settings and its collector."""
