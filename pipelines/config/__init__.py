"""Settings: their shape, the named recipes, and the command line."""
