"""Jobs on a local Ray, which ends with the last of these tests."""
