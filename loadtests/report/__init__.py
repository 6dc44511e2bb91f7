"""A run's record made readable: one page that needs nothing else, and a summary in Markdown.

`python -m loadtests.report FOLDER...`. It reads what a run left behind and judges nothing anew: the verdicts are the
record's own.
"""
