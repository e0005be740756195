"""Training: the order of samples, the loop, its methods, and Ray Train around them."""
