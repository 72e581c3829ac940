"""Several erasures on one pipeline: active together, merged into one, or in the weights."""
