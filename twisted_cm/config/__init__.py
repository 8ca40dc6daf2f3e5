"""What the user configured: the seed file, the options of a server, certificates."""
