"""RecBole's atomic files -> event log -> sequences -> data set."""
