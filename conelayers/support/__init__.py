"""Tools that every room may use: checks of arguments, statuses and errors, time limits, threads, tables for notebooks.

This room imports nothing of the package; its tools know nothing of cone programs.
"""
