"""Images of a pipeline with and without erasures."""
