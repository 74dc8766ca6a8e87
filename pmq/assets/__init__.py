"""Files that ship: the embedded model and its images."""
