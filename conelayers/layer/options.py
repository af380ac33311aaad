"""The options of a layer's constructor, once for all three layers: name, type, default, check and documentation.

``takes_options`` turns ``construct(self, problem, parameters, variables, options)`` into a constructor that takes the
options one by one. Type checkers and editors read its parameters from the dataclasses below (PEP 612), ``help()`` and
notebooks from the signature that it is given here; ``describe_options`` writes the list of options in a class's
docstring.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field, fields
from typing import Any, Concatenate, ParamSpec, TypeVar

import cvxpy as cp

from conelayers.derivatives.policies import Singular, as_singular
from conelayers.derivatives.smoothing import Smoothing
from conelayers.layer.chunk_executor import check_chunk_size, check_executor
from conelayers.layer.outcome import OnFailure, as_on_failure
from conelayers.numerics.cones import Selection, as_selection
from conelayers.problem.canonicalize import known_backend
from conelayers.solve.backends import find_solver, merge_solver_args
from conelayers.support.arguments import as_flag, check_keywords, described

__all__ = ["Options", "describe_options", "takes_options"]

_Check = Callable[[str, Any], Any]
_Arguments = ParamSpec("_Arguments")
_Layer = TypeVar("_Layer")
_Class = TypeVar("_Class", bound=type)

# cvxpylayers' constructor takes these by position, in this order; ours takes the others after them, as declared.
_FIRST_BY_POSITION = ("solver", "gp", "verbose", "canon_backend", "solver_args")


def _solver_name(_: str, solver: Any) -> str | None:
    # "DIFFCP" is how migrants ask for the default.
    return None if solver is None or str(solver).upper() == "DIFFCP" else find_solver(solver).name


def _smoothing(name: str, smoothing: Any) -> Smoothing | None:
    if smoothing is not None and not isinstance(smoothing, Smoothing):
        raise TypeError(
            f"{name}: got {described(smoothing)}, expected None, LPGD(tau=…) or ProximalSmoothing(temperature=…)"
        )
    return smoothing


def _ignoring_name(check: Callable[[Any], Any]) -> _Check:
    """The check of an option whose messages name it without being told its name."""
    return lambda _, value: check(value)


def _about(text: str, check: _Check) -> dict[str, Any]:
    """The metadata of an option's field: its text in help(), and its check."""
    return {"text": text, "check": check}


@dataclass(frozen=True)
class Options:
    """The options of Layer and of the adapters' ConeLayer, checked.

    Raises ValueError or TypeError naming the option, what was got and what was expected.
    """

    solver: str | None = field(
        default=None,
        metadata=_about(
            '"CLARABEL", "SCS", "ECOS", "HIGHS" (linear programs), or None: the cheapest starting method, and '
            "Clarabel where Newton's method does not finish from there (docs/method.md). If a named solver fails, "
            "the others are tried, unless "
            'solver_args={"fallback": False}.',
            _solver_name,
        ),
    )
    gp: bool = field(default=False, metadata=_about("the problem is a geometric program.", as_flag))
    solver_args: Mapping[str, Any] | None = field(
        default=None,
        kw_only=True,
        metadata=_about(
            "defaults for every call (conelayers/solve/backends/arguments.py has the table).",
            lambda _, value: merge_solver_args({}, value),
        ),
    )
    verbose: bool = field(
        default=False,
        # parse_solver_args checks it with the solver_args that it is one of.
        metadata=_about("the backends and cvxpy print their progress.", lambda _, value: value),
    )
    canon_backend: str | None = field(
        default=None,
        metadata=_about("cvxpy's canonicalization backend; None for cvxpy's default.", _ignoring_name(known_backend)),
    )
    warm_start: bool = field(
        default=False, kw_only=True, metadata=_about("start every solve at this thread's previous solution.", as_flag)
    )
    singular: Singular | str = field(
        default=Singular.WARN,
        kw_only=True,
        metadata=_about(
            "what happens where the derivative's linear system is singular and what is asked for depends on it: "
            '"warn" (once for each cause, naming it), "raise" a SingularDerivativeError, or "least_squares" '
            "without a word.",
            _ignoring_name(as_singular),
        ),
    )
    selection: Selection | str = field(
        default=Selection.DEFAULT,
        kw_only=True,
        metadata=_about(
            'the Clarke element at kinks, "default" (each cone\'s own), "low", "high" or "mid".',
            _ignoring_name(as_selection),
        ),
    )
    smoothing: Smoothing | None = field(
        default=None,
        kw_only=True,
        metadata=_about(
            "None for the exact derivative, or what stands in for it, ``LPGD(tau=…)`` or "
            "``ProximalSmoothing(temperature=…)`` (in torch and JAX in reverse mode only). The solution itself stays "
            "the exact one.",
            _smoothing,
        ),
    )
    lift: bool = field(
        default=True,
        kw_only=True,
        metadata=_about(
            "where the problem is not DPP, replace expressions of parameters by new parameters, which the layer's "
            "framework computes (``layer.lifted``; docs/parameters.md). False refuses such a problem.",
            as_flag,
        ),
    )
    simplify: bool = field(
        default=True,
        kw_only=True,
        metadata=_about(
            "take out of cvxpy's form of the problem what it has more than the problem needs, such as the epigraph variable "
            "of a norm that has a bound, for all values of the parameters (docs/method.md). False keeps cvxpy's own form, for "
            "comparisons; solutions, multipliers and gradients are the same.",
            as_flag,
        ),
    )
    validate: bool = field(
        default=True,
        kw_only=True,
        metadata=_about("check values against the attributes of their parameters.", as_flag),
    )
    on_failure: OnFailure | str = field(
        default=OnFailure.RAISE,
        kw_only=True,
        metadata=_about(
            'if instances have no solution, "raise" a SolveError, return NaN for them ("nan"), or return NaN with '
            'a FailedInstancesWarning ("warn"). ``layer.last`` says how each instance ended, also after an error '
            "(docs/failures.md).",
            _ignoring_name(as_on_failure),
        ),
    )
    executor: Executor | None = field(
        default=None,
        kw_only=True,
        metadata=_about(
            "any ``concurrent.futures.Executor``, on which batches are solved and differentiated in chunks. It stays "
            "the caller's to shut down (docs/scale_out.md).",
            _ignoring_name(check_executor),
        ),
    )
    chunk_size: int | None = field(
        default=None,
        kw_only=True,
        metadata=_about("instances in a chunk; None for two chunks a worker.", _ignoring_name(check_chunk_size)),
    )
    progress: bool = field(
        default=False,
        kw_only=True,
        metadata=_about(
            "show a bar (tqdm) while batches are solved and differentiated, with or without an executor.", as_flag
        ),
    )

    def __post_init__(self) -> None:
        for option in fields(Options):
            checked = option.metadata["check"](option.name, getattr(self, option.name))
            object.__setattr__(self, option.name, checked)

    @property
    def policies(self) -> tuple[Singular, Selection]:
        """What happens where the derivative is singular, and which Clarke element is taken at kinks."""
        return as_singular(self.singular), as_selection(self.selection)

    @property
    def call_defaults(self) -> dict[str, Any]:
        """The ``solver_args`` of a call that has none, ``verbose`` among them."""
        return merge_solver_args({"verbose": self.verbose}, self.solver_args)


@dataclass(frozen=True)
class _Problem:
    """What every constructor takes before the options."""

    problem: cp.Problem
    parameters: Sequence[cp.Parameter]
    variables: Sequence[cp.Variable]


@dataclass(frozen=True)
class _ConstructorArguments(Options, _Problem):
    """A constructor's parameters, as type checkers see them: a dataclass has the fields of its last base first."""


def _options_of(
    declared: Callable[_Arguments, Any],
) -> Callable[
    [Callable[[_Layer, cp.Problem, Sequence[cp.Parameter], Sequence[cp.Variable], Options], None]],
    Callable[Concatenate[_Layer, _Arguments], None],
]:
    """A decorator that gives constructors the parameters of ``declared``."""
    known = inspect.signature(declared).parameters
    first = [f.name for f in fields(_Problem)]
    options = [f.name for f in fields(Options)]
    order = [*first, *_FIRST_BY_POSITION, *(name for name in options if name not in _FIRST_BY_POSITION)]
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    parameters = [inspect.Parameter("self", kind), *(known[name].replace(kind=kind) for name in order)]
    signature = inspect.Signature(parameters, return_annotation=None)
    of_options = inspect.Signature(parameters[1 + len(first) :])

    def decorate(construct: Any) -> Any:
        @functools.wraps(construct)
        def __init__(self: Any, problem: Any, parameters: Any, variables: Any, *given: Any, **named: Any) -> None:
            check_keywords([name for name in named if name not in options], [*first, *options])
            chosen = of_options.bind(*given, **named).arguments
            construct(self, problem, parameters, variables, Options(**chosen))

        __init__.__signature__ = signature  # type: ignore[attr-defined]
        return __init__

    return decorate


takes_options = _options_of(_ConstructorArguments)


def describe_options(layer: _Class) -> _Class:
    """A class decorator: the list of options takes the place of the docstring's line "Options: see Options."."""
    listed = "\n".join(f"    {option.name}: {option.metadata['text']}" for option in fields(Options))
    layer.__doc__ = (layer.__doc__ or "").replace("    Options: see conelayers.layer.options.Options.", listed)
    return layer
