"""The kinds of inputs: how the videos of each are listed and fetched."""
