"""Every figure and table of the paper: what `mfa-fast reproduce` runs.

`settings` say what is asked for; an experiment of `catalogue` turns them into `cells`, pieces of work that `run` does
once each, and their results into a report.
"""
