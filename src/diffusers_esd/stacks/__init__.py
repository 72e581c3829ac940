"""Several erasures on one pipeline: named, active together, merged into one, or baked into the weights."""
