"""Judges: what is in an image. A file for each; a package that only one of them needs is imported where it is used."""
