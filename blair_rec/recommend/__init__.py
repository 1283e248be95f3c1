"""The training side: RecBole data set -> model -> trainer -> scores. Never imports transformers."""
