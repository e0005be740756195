"""The commands a user submits, one short file each: nothing but wiring."""
