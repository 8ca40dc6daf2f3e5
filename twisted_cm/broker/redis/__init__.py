"""A broker whose state is in a Redis that any number of emulator processes share."""
