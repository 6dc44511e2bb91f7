"""What a request is known by, wherever it left a mark: its id, its trace, its lines in the log."""
