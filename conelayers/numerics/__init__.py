"""The arithmetic on arrays: projections and Clarke elements, scaling, the residual map, the reduced KKT matrix, Newton's steps.

In come cone programs and points; out go better points, factors and error measures. The compiled core will take this room's place.
"""
