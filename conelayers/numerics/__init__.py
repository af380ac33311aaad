"""The arithmetic on arrays: projections, Clarke elements, scaling, the residual map, the reduced KKT matrix, Newton's
steps.

In come cone programs and points; out go better points, factors and error measures. The compiled core will replace this
room.
"""
