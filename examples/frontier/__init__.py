"""Erased against kept: every recipe on the same model, the same objects and the same seeds, one to sixteen erasures.

`recipes` says what is compared, `work` trains and judges in parallel processes, `rates` computes rates and intervals,
`page` writes the table and the plot. Each erasure is trained alone, on the base model, and a quarter of the objects is
withheld from every list of what is preserved. Then the first 4, 8 and 16 are active together.

Run as `make frontier`, or `python -m frontier` in `examples/`. Everything is saved at once, and an interrupted run
continues from there.
"""
