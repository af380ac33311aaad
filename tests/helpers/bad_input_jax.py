"""Misuses of the layers for JAX, and of its roots and fixed points."""

from __future__ import annotations

from bad_input import Group

# fmt: off

GROUPS: list[Group] = []


def group(title: str, prelude: str) -> Group:
    GROUPS.append(Group(title, prelude))
    return GROUPS[-1]


layers = group(
    "JAX: layers",
    """
import cvxpy as cp, jax, jax.numpy as jnp, numpy as np, scipy.sparse as sp, torch
from jax.experimental.sparse import BCOO
from conelayers.jax import ConeLayer, CvxpyLayer

jax.config.update("jax_enable_x64", True)
x, p, r = cp.Variable(3, name="x"), cp.Parameter(3, name="p"), cp.Parameter(nonneg=True, name="r")
problem = cp.Problem(cp.Minimize(cp.sum_squares(x - p) + r * cp.norm1(x)))
layer = ConeLayer(problem, [p, r], [x])
infeasible = ConeLayer(cp.Problem(cp.Minimize(cp.sum_squares(x)), [x >= p, x <= 0]), [p], [x])
lifted = ConeLayer(cp.Problem(cp.Minimize(cp.sum_squares(x - cp.inv_pos(r) * p))), [p, r], [x])
S = cp.Parameter((2, 2), name="S", sparsity=[(0,), (1,)])
X = cp.Variable((2, 2), name="X")
sparse_layer = ConeLayer(cp.Problem(cp.Minimize(cp.sum_squares(X - S))), [S], [X])
l, u = cp.Parameter(3, name="l"), cp.Parameter(3, name="u")
box = ConeLayer(cp.Problem(cp.Minimize(cp.sum_squares(x - p)), [l <= x, x <= u]), [p, l, u], [x])
one, inf = jnp.ones(3), jnp.full(3, jnp.inf)
diagonal = lambda n: BCOO((jnp.asarray(np.ones(n)), jnp.asarray(np.stack([np.arange(n)] * 2, 1))), shape=(n, n))
""",
)
bad = layers.bad
bad('ConeLayer(problem.objective, [p, r], [x])', 'problem', 'got Minimize', 'expected a cvxpy.Problem', error='TypeError')
bad('ConeLayer(problem, p, [x])', 'parameters', 'got Parameter', 'list or tuple', '[p]')
bad('ConeLayer(problem, [p], [x])', 'parameters', 'missing: r')
bad('ConeLayer(problem, [p, r], x)', 'variables', 'got Variable', 'list or tuple', '[x]')
bad('ConeLayer(problem, [one, r], [x])', 'parameters[0]', 'got ArrayImpl', 'expected a cvxpy.Parameter')
bad("ConeLayer(problem, [p, r], [x], 'OSQP')", 'solver', "got 'OSQP'", 'CLARABEL, SCS, ECOS, HIGHS')
bad("ConeLayer(problem, [p, r], [x], on_failure='zero')", 'on_failure', "got 'zero'", "'raise', 'nan', 'warn'")
bad('ConeLayer(problem, [p, r], [x], on_failure=None)', 'on_failure', 'got None', "'raise', 'nan', 'warn'")
bad("ConeLayer(problem, [p, r], [x], singular='error')", 'singular', "got 'error'", "'warn', 'raise', 'least_squares'")
bad("ConeLayer(problem, [p, r], [x], selection='best')", 'selection', "got 'best'", "'default', 'low', 'high', 'mid'")
bad('ConeLayer(problem, [p, r], [x], smoothing=0.1)', 'smoothing', 'got float', 'LPGD(tau=…)', error='TypeError')
bad("ConeLayer(problem, [p, r], [x], validate='no')", 'validate', "got 'no'", 'True or False')
bad("ConeLayer(problem, [p, r], [x], solver_args='SCS')", 'solver_args', 'got str', 'a dict', error='TypeError')
bad('CvxpyLayer(problem, parameters=[p, r], variables=[p])', 'variables[0]', 'got Parameter', 'expected a cvxpy.Variable')
bad('layer(one)', 'for each CVXPY parameter', 'received 1', 'expected 2 (p, r)')
bad('layer()', 'for each CVXPY parameter', 'received 0', 'expected 2 (p, r)')
bad('layer(one, 1.0, 2.0)', 'for each CVXPY parameter', 'received 3', 'expected 2 (p, r)')
bad('layer([one, 1.0])', 'parameter 0 (p)', 'got list', 'expected an array of JAX or NumPy', 'jnp.asarray', error='TypeError')
bad('layer([1.0, 2.0, 3.0], 1.0)', 'parameter 0 (p)', 'got list', 'expected an array of JAX or NumPy', 'jnp.asarray', error='TypeError')
bad('layer(1.0, one)', 'parameter 0 (p)', 'Expected 1 or 2 dimensions', 'got 0')
bad('layer(jnp.ones(4), 1.0)', 'parameter 0 (p)', 'Expected (3,)', 'got (4,)')
bad('layer(jnp.ones((3, 2)), 1.0)', 'parameter 0 (p)', 'Expected the batched shape (batch_size, 3)', 'got (3, 2)', 'batch axis comes first')
bad('layer(jnp.ones((2, 2, 3)), 1.0)', 'parameter 0 (p)', 'Expected 1 or 2 dimensions', 'got 3', 'one batch axis')
bad('layer(jnp.ones((2, 3)), jnp.ones(3))', 'batch sizes', 'Expected one size', 'got p: 2, r: 3')
bad('layer(torch.ones(3), 1.0)', 'parameter 0 (p)', 'got Tensor', 'expected an array of JAX or NumPy', 'jnp.asarray', error='TypeError')
bad('layer(None, 1.0)', 'parameter 0 (p)', 'got NoneType', 'expected an array of JAX or NumPy', error='TypeError')
bad('layer(one, True)', 'parameter 1 (r)', 'got bool', 'expected an array of JAX or NumPy, or a number', error='TypeError')
bad('layer(p, r)', 'parameter 0 (p)', 'got Parameter', 'expected an array of JAX or NumPy', error='TypeError')
bad("layer('one', 1.0)", 'parameter 0 (p)', 'got str', 'expected an array of JAX or NumPy', error='TypeError')
bad('layer(sp.eye_array(3), 1.0)', 'parameter 0 (p)', 'expected an array of JAX or NumPy', error='TypeError')
bad('layer(diagonal(3), 1.0)', 'parameter 0 (p)', 'got BCOO', 'expected an array of JAX or NumPy', '.todense()', error='TypeError')
bad('layer(np.ma.masked_array(np.ones(3), [0, 1, 0]), 1.0)', 'parameter 0 (p)', 'got a masked array', 'expected', '.filled(', error='TypeError')
bad("layer(np.array(['a', 'b', 'c']), 1.0)", 'parameter 0 (p)', 'got dtype <U1', 'expected a real one', error='TypeError')
bad('layer(np.ones(3, dtype=object), 1.0)', 'parameter 0 (p)', 'got dtype object', 'expected a real one', '.astype(float)', error='TypeError')
bad('layer(one > 0, 1.0)', 'parameter 0 (p)', 'got dtype bool', 'expected a real one', '.astype(float)', error='TypeError')
bad('layer(one + 0j, 1.0)', 'parameter 0 (p)', 'got dtype complex128', 'expected a real one', error='TypeError')
bad('layer(one * jnp.nan, 1.0)', 'parameter p', 'got NaN or infinite values', 'expected finite ones')
bad('layer(one, jnp.inf)', 'parameter r', 'got NaN or infinite values', 'expected finite ones')
bad('box(inf, -one, one)', 'parameter p', 'got NaN or infinite values (inf at [0])', 'expected finite ones', 'leave out')
bad('box(one, -one, inf - inf)', 'parameter u', 'got NaN or infinite values (nan at [0])', 'expected finite ones', '0/0')
bad('box(one, -one, -inf)', '1 of 1 instances', 'primal infeasible at batch index 0', 'add slack variables', error='SolveError')
bad('layer(jnp.stack([one, one * jnp.inf]), 1.0)', 'parameter p at batch index 1', 'got NaN or infinite values', 'expected finite ones')
bad('layer(one, -1.0)', 'parameter r', 'nonneg=True', 'got entries from -1', '≥ 0')
bad('layer(p=one)', 'parameters', 'got 0 by position and p by name', 'all by name: p, r')
bad('layer(one, r=1.0)', 'parameters', 'got 1 by position and r by name', 'all by name: p, r')
bad("layer({'p': one})", 'parameters', 'got 0 by position and p by name', 'all by name: p, r')
bad("layer({'p': one, 'q': 1.0})", 'parameters', 'got 0 by position and p, q by name', 'all by name: p, r')
bad('layer({})', 'for each CVXPY parameter', 'received 0', 'expected 2 (p, r)')
bad("layer(one, 1.0, on_failure='zero')", 'on_failure', "got 'zero'", "'raise', 'nan', 'warn'")
bad("layer(one, 1.0, solver_args={'foo': 1})", 'solver_args', "got 'foo'", 'eps, tol, max_iters')
bad("layer(one, 1.0, solver_args='SCS')", 'solver_args', 'got str', 'a dict', error='TypeError')
bad("layer(one, 1.0, solver_args=['eps'], on_failure='nan')", 'solver_args', 'got list', 'a dict', error='TypeError')
bad("layer(one, 1.0, warm_start='yes')", 'warm_start', "got 'yes'", 'True or False')
bad('layer.value(jnp.ones(4), 1.0)', 'parameter 0 (p)', 'Expected (3,)', 'got (4,)')
bad("layer.value(one, 1.0, solver_args='SCS')", 'solver_args', 'got str', 'a dict', error='TypeError')
bad('layer.jacobian(one, None)', 'parameter 1 (r)', 'got NoneType', 'expected an array of JAX or NumPy', error='TypeError')
bad('layer.certify(one)', 'for each CVXPY parameter', 'received 1', 'expected 2 (p, r)')
bad('layer.problem_data(one, -1.0)', 'parameter r', 'nonneg=True', '≥ 0')
bad('lifted(one, 0.0)', 'power(r, -1.0)', 'got NaN or infinite values', 'expected finite ones')
bad('lifted(one * jnp.nan, 1.0)', 'parameter p', 'got NaN or infinite values', 'expected finite ones')
bad('lifted(jnp.ones(2), 1.0)', 'parameter 0 (p)', 'Expected (3,)', 'got (2,)')
bad('sparse_layer(jnp.ones((2, 2)))', 'parameter S', 'sparsity pattern', 'got entries outside it')
bad('sparse_layer(diagonal(2))', 'parameter S', 'sparsity pattern', 'got entries outside it')
bad('sparse_layer(diagonal(3))', 'parameter 0 (S)', 'Expected (2, 2)', 'got (3, 3)')
bad('infeasible(one)', '1 of 1 instances', 'primal infeasible at batch index 0', 'add slack variables', error='SolveError')
bad('infeasible(jnp.stack([-one, one]))', '1 of 2 instances', 'primal infeasible at batch index 1', 'add slack variables', error='SolveError')
bad('jax.jit(lambda a: layer(a, 1.0)[0])(jnp.ones(4))', 'parameter 0 (p)', 'Expected (3,)', 'got (4,)')
bad('jax.jit(lambda a: layer(a)[0])(one)', 'for each CVXPY parameter', 'received 1', 'expected 2 (p, r)')
bad('jax.vmap(lambda a: layer(a, 1.0)[0])(jnp.ones((2, 4)))', 'parameter 0 (p)', 'Expected (3,)', 'got (4,)')
bad('jax.jit(lambda a: layer.certify(a, 1.0))(one)', 'certify', 'got traced arrays', 'expected concrete ones', 'outside of the transformed function', error='TypeError')
bad('jax.grad(lambda a: layer.jacobian(a, 1.0)[0][0].sum())(one)', 'jacobian', 'got traced arrays', 'expected concrete ones', 'jax.jacrev', error='TypeError')
bad('jax.grad(lambda a: layer.engine.solve(a, 1.0).variables[0].sum())(one)', 'parameter 0 (p)', 'got', 'Tracer', 'conelayers.jax', error='TypeError')
good = layers.good
good('layer(jnp.ones(3, jnp.float32), jnp.float32(0))[0].dtype == jnp.float32', 'True', 'float32 in, float32 out')
good('layer(np.ones(3, np.float16), np.float16(0))[0].dtype == jnp.float16', 'True', 'float16')
good('layer(jnp.arange(3), 0)[0]', '[0, 1, 2]', 'integers', atol=1e-12)
good('jax.jit(box)(2 * one, -inf, jnp.stack([inf, one]))[0]', '[[2, 2, 2], [1, 1, 1]]', 'infinite bounds, which do not bound', atol=1e-9)
good('jax.grad(lambda a: box(2 * one, -inf, a)[0].sum())(inf)', '[0, 0, 0]', 'and have the gradient 0', atol=1e-9)
good("box(jnp.stack([one, inf]), -one, inf, on_failure='nan')[0]", '[[1, 1, 1], [jnp.nan] * 3]', "infinity elsewhere fails its own instance with on_failure='nan'", atol=1e-9)
good('layer(np.ones((3, 3)).T[0], 0.0)[0]', '[1, 1, 1]', "NumPy's arrays, of any strides")
good("layer({'r': 0.0, 'p': one})[0]", '[1, 1, 1]', 'by name, in any order')
good('layer(jnp.ones((0, 3)), 0.0)[0].shape', '(0, 3)', 'an empty batch')
good("layer(one * jnp.nan, 0.0, on_failure='nan')[0]", '[np.nan] * 3', 'NaN values on request')
good("infeasible(jnp.stack([-one, one]), on_failure='nan')[0]", '[[0] * 3, [np.nan] * 3]', 'NaN for instances without a solution, on request', atol=1e-09)
good('jax.grad(lambda a: layer(a, 1.0)[0].sum())(1e12 * one)', '[1, 1, 1]', 'values of 1e12')
good('layer(1e-12 * one, 0.0)[0]', '[1e-12] * 3', 'and 1e−12')

roots = group(
    "JAX: roots and fixed points",
    """
import jax, jax.numpy as jnp, numpy as np, torch
from conelayers import Cones
from conelayers.implicit import *
from conelayers.implicit.jax import *

jax.config.update("jax_enable_x64", True)
F = lambda z, t: z**3 + z - t
z, t = jnp.zeros(3), jnp.ones(3)
""",
)
bad = roots.bad
bad("root('F', z, t)", 'root: F', 'got str', 'expected a callable (z, *theta)', error='TypeError')
bad("root(F, 'zero', t)", 'root: z0', 'got str', 'expected an array of float32 or float64', 'jnp.asarray', error='TypeError')
bad('root(F, torch.zeros(3), t)', 'root: z0', 'got Tensor', 'expected an array of float32 or float64', 'jnp.asarray', error='TypeError')
bad('root(F, jnp.zeros(3, int), t)', 'root: z0', 'int64', 'expected an array of float32 or float64', 'jnp.asarray', error='TypeError')
bad('root(F, jnp.zeros(3, complex), t)', 'root: z0', 'complex128', 'expected an array of float32 or float64', error='TypeError')
bad('root(F, [], t)', 'root: z0', 'got the shapes []', 'at least one leaf')
bad('root(lambda z, t: (z - t).sum(), z, t)', 'root: F', 'it returned', "z0's shape (3,)", 'as many equations as unknowns')
bad('root(lambda z, t: z > t, z, t)', 'root: F', 'it returned an array of bool', 'expected float32 or float64', error='TypeError')
bad('root(F, z, t, solve=Anderson())', 'root: solve', 'got Anderson(', 'Newton()', 'that one is for fixed_point', error='TypeError')
bad('root(F, z, t, solve=lambda F, z0, theta: z0[:1])', 'root: solve', 'it returned', "z0's shape (3,)")
bad("root(F, z, t, linear='dense')", 'root: linear', "got 'dense'", 'Dense(), GMRES(), BiCGStab(), None', error='TypeError')
bad('root(F, z, t, tol=-1.0)', 'root: tol', 'got -1.0', 'a positive number')
bad("root(F, z, t, on_failure='ignore')", 'root: on_failure', "got 'ignore'", "'raise' or 'nan'")
bad("root(F, z, t, batched='yes')", 'root: batched', "got 'yes'", 'True or False')
bad('root(lambda z: z - 1, z[0], batched=True)', 'root: batched', 'got True and z0 without axes', 'a leading axis of instances')
bad("certify_root(F, z, t, separable='relu')", 'certify_root: separable', 'got str', 'Separable(pre, activation)', error='TypeError')
bad("certify_root(F, z, t, smooth='yes')", 'certify_root: smooth', "got 'yes'", 'True or False')
bad('jax.jit(lambda t: certify_root(F, z, t))(t)', 'certify_root', 'got a traced array', 'expected concrete ones', 'outside of jit', error='TypeError')
bad('soft_threshold(None, 1.0)', 'soft_threshold: v', 'got None', 'expected a floating-point array', error='TypeError')
bad('soft_threshold(jnp.zeros(3, int), 1.0)', 'soft_threshold: v', 'got an array of int64', 'expected a floating-point array', error='TypeError')
bad('soft_threshold(z, -1.0)', 'soft_threshold: threshold', 'got -1.0', 'expected a number ≥ 0')
bad("soft_threshold(z, '1')", 'soft_threshold: threshold', 'got str', 'expected a number or an array', error='TypeError')
bad('soft_threshold(z, jnp.ones(2))', 'soft_threshold: threshold', 'got the shape (2,)', "broadcasts with v's (3,)")
bad("soft_threshold(z, 1.0, 'left')", 'selection', "got 'left'", "'default', 'low', 'high', 'mid'")
bad('project_box(z, 1.0, 0.0)', 'project_box: lower, upper', 'got 1.0 and 0.0', 'lower ≤ upper', 'exchange them')
bad('project_box(z, 0.0, jnp.ones(5))', 'project_box: upper', 'got the shape (5,)', "broadcasts with v's (3,)")
bad('project_simplex(z[0], 1.0)', 'project_simplex: v', 'got the shape ()', '(..., n) with n ≥ 1')
bad('project_simplex(jnp.ones((3, 3)), jnp.ones(3))', 'project_simplex: radius', 'got the shape (3,)', 'a number or (..., 1)', 'radius[..., None]')
bad('project_l2_ball(z, None)', 'project_l2_ball: radius', 'got None', 'expected a number or an array', error='TypeError')
bad('project_cone(z, Cones(soc=[4]))', 'project_cone: v', 'got the shape (3,)', 'expected (..., 4)')
bad("project_cone(z, Cones(soc=[3]), dual='yes')", 'project_cone: dual', "got 'yes'", 'True or False')
good = roots.good
good('soft_threshold(z * jnp.nan, 1.0)', '[np.nan] * 3', 'NaN in, NaN out')
good('project_box(t, -jnp.inf, jnp.inf)', '[1, 1, 1]', 'infinite bounds')
good('project_simplex(jnp.ones((0, 3))).shape', '(0, 3)', 'an empty batch')
