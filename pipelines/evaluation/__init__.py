"""What the evaluation page is made of: protocols, detectors, drawing, watching, summing up."""
