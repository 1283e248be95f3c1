"""Text vectors on disk, found again by item token."""

from blair_rec.text.store.embeddings import EmbeddingStore as EmbeddingStore
from blair_rec.text.store.embeddings import open_store as open_store
