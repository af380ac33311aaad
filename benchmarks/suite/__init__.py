"""The comparison of layers: families of problems, contenders, a reference in higher accuracy, and the report."""
