"""The derivative of the solution map, whether it is justified, and what is done where it does not exist.

In come points and factors; out go tangents, cotangents, certificates and warnings.
"""
