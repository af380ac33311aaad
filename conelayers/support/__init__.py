"""What every room may use: checks of arguments, statuses and errors, limits, threads, tables for notebooks.

In comes nothing of the package; out go small tools that know nothing of cone programs.
"""
