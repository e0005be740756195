"""What is trained: each model as a small object that the loop drives."""
