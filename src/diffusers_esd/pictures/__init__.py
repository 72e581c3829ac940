"""Images: drawn by a pipeline, side by side in a labelled grid, with and without erasures."""
