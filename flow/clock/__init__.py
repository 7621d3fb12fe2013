"""Virtual time: how fast the clients' devices are, and when they can be reached."""
