"""What others use: each file one peer, as it is published or as it is described."""
