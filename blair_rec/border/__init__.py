"""Everything that touches RecBole's internals: repairs, settings and its collector."""
