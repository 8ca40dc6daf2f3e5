"""Who waits for whom: the broker, in memory and on Redis."""
