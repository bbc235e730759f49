"""Data sets: the layouts they come in, lesions, splits, and their photos as pixels."""
