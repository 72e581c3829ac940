"""Baselines: other ways to keep a concept out of images. One file for each."""
