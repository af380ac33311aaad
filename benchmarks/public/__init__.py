"""Public test problems from files that the user supplies: solved, differentiated, certified, one row a file (docs/public_problems.md).

``python -m benchmarks.public DIR --json FILE`` reads Maros-Meszaros quadratic programs and NETLIB linear programs (``.mat``),
SDPLIB (``.dat-s``) and CBLIB (``.cbf``), each also compressed (``.gz``). The keys of a row, null where there is none:

    name                 the file's, without folder and suffix; with its folder where two files share one
    n, m                 variables and rows as in the file: ranges l ≤ Ax ≤ u and equations Ax = b; for SDPLIB the order of the
                         matrices and the number of constraints; for CBLIB scalar variables and rows with those of the triangles
    status               solved | inaccurate | primal_infeasible | dual_infeasible | failed | iteration_limit (conelayers' own words;
                         infeasible only with a certificate that was checked here), time_limit | crashed | unsupported | unreadable
    kkt_residual         the worst relative error in the optimality conditions, recomputed here
    verdict              conelayers' certificate of the derivative; primal_infeasible and dual_infeasible where that is what was certified
    derivative_residual  relative, of the linear system of the derivative along a random perturbation of all data, recomputed here
    seconds              from opening the file to the last answer
"""
