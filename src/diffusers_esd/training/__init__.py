"""A training: from a pipeline and a configuration to an erasure."""
