"""A batch of cone programs, solved: which start, which backend next, whose word counts.

In come cone programs and an order of starting methods; out go points, factors and a status for each instance.
"""
