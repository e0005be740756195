"""Training: the order of samples, the loop, the two methods, and Ray Train around them."""
