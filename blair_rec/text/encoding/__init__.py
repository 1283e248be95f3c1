"""Lines of text -> vectors, with a frozen encoder."""
