"""What happened before: record jobs to a file, and answer from it."""
