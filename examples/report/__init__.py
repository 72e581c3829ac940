"""The report on the small model: everything that `evaluate` can ask, for many erasures, on one page.

`erasures` says what is trained, and keeps it; `parts` says what is asked; `page` puts the reports together. Run as
`make report`, or `python -m report` in `examples/`. Erasures, images and findings that are there are not made again.
"""
