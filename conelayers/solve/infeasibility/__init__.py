"""Whether a cone program has a solution at all: certificates, their refinement from rough ones, and the search for
them.

In come programs and the rays that starting methods left; out go the statuses for which there is a certificate.
"""
