"""The named recipes, and the command line that takes them."""
