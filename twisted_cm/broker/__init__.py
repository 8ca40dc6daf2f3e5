"""The broker, in memory and on Redis: it hands jobs to polls and results to callers."""
