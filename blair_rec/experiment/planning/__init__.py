"""Which runs a comparison is made of, where its data is, and which finished runs still hold."""
