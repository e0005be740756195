"""The plant: a page for each job on top, the rooms it uses below."""
