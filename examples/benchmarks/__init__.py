"""What an update costs: the published training beside ours, on the small model and on random weights of large ones."""
