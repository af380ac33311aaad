"""From DCP to DPP: expressions of parameters alone are replaced by new parameters, whose values are computed in every call."""
