"""From DCP to DPP: new parameters, whose values are computed in every call, replace expressions of parameters alone."""
