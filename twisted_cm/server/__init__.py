"""How the emulator looks on the wire: the routes, and what they share."""
