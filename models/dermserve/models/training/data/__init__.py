"""Data sets: the layouts they come in, lesions, splits, where they are from, and their photos as pixels."""
