"""Commands about item texts and their vectors."""
