"""Whether a cone program has a solution at all: certificates, how rough ones are refined, and how they are looked for.

In come programs and what starting methods left of them; out goes what there is a certificate of.
"""
