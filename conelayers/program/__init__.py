"""The cone program in the package's one convention: patterns, values, solutions, and the user's names for rows and
columns.

Its classes hold data and compute nothing beyond products with P and A.
"""
