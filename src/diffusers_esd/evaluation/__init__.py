"""Evaluation in four stages over a folder: prompts, images, judgements, and figures with intervals in a report."""
