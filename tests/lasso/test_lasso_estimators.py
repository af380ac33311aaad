"""Estimators that choose their own penalties: as scikit-learn and its users have it, whatever the units and the splits, and what they need."""

import pickle
import subprocess
import sys
import warnings

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer, load_diabetes
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import Lasso as SklearnLasso
from sklearn.linear_model import LassoCV
from sklearn.model_selection import GridSearchCV, KFold
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import estimator_checks_generator

from conelayers import SingularDerivativeWarning, Verdict
from conelayers.lasso import ElasticNetHyperCV, LassoHyperCV, LogisticHyperCV, WeightedLassoHyperCV

REGRESSORS = (LassoHyperCV, ElasticNetHyperCV, WeightedLassoHyperCV)
ESTIMATORS = (*REGRESSORS, LogisticHyperCV)
QUICK = {"n_alphas": 4, "max_iter": 5}


def made(n=80, p=30, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, p)) + rng.standard_normal((n, 1))
    return X, X @ (rng.standard_normal(p) * (rng.random(p) < 0.3)) + 2 * rng.standard_normal(n)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_scikit_learn_accepts_the_estimator(estimator):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn warns about the checks that it skips without pandas
        for case, check in estimator_checks_generator(estimator(n_alphas=3, max_iter=3)):
            try:
                check(case)
            except BaseException as error:
                if type(error).__name__ not in ("SkipTest", "Skipped"):
                    raise


def test_lasso_estimator_chooses_as_lasso_cv():
    X, y = load_diabetes(return_X_y=True)
    ours, theirs = LassoHyperCV().fit(X, y), LassoCV(cv=5).fit(X, y)
    assert abs(np.log(ours.alpha_ / theirs.alpha_)) < 0.2
    assert ours.tuning_.value <= theirs.mse_path_.mean(axis=1).min() + 1e-6
    refitted = SklearnLasso(ours.alpha_, tol=1e-12, max_iter=100_000).fit(X, y)
    np.testing.assert_allclose(ours.predict(X), refitted.predict(X), rtol=1e-6)
    assert ours.certificate_.justified
    elastic = ElasticNetHyperCV().fit(X, y)
    assert 0 <= elastic.l1_ratio_ <= 1
    assert WeightedLassoHyperCV().fit(X, y).tuning_.value < ours.tuning_.value


def test_logistic_estimator():
    X, y = load_breast_cancer(return_X_y=True)
    X = (X - X.mean(axis=0)) / X.std(axis=0)
    names = np.array(["malignant", "benign"])
    model = LogisticHyperCV().fit(X[::2], names[y[::2]])
    assert model.score(X[1::2], names[y[1::2]]) > 0.94
    np.testing.assert_allclose(model.predict_proba(X).sum(axis=1), 1)
    np.testing.assert_allclose(model.C_ * model.alpha_ * len(y[::2]), 1)
    with pytest.raises(ValueError, match="OneVsRestClassifier"):
        LogisticHyperCV().fit(X, np.arange(len(y)) % 3)


@pytest.mark.parametrize("seed", range(6))
def test_alpha_is_near_lasso_cvs(seed):
    X, y = made(seed=seed)
    ours = LassoHyperCV().fit(X, y)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        theirs = LassoCV(cv=5, alphas=200, tol=1e-5).fit(X, y)
    best = theirs.mse_path_.mean(axis=1).min()
    assert ours.tuning_.value <= best * (1 + 1e-6)
    assert ours.tuning_.value > best * (1 - 1e-2)
    assert abs(np.log(ours.alpha_ / theirs.alpha_)) < 0.1


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize(("of_x", "of_y"), [(1e-6, 1.0), (1e6, 1.0), (1.0, 1e-6), (1.0, 1e12)])
def test_units_do_not_change_the_choice(estimator, of_x, of_y):
    X, y = made()
    if estimator is LogisticHyperCV:
        y, of_y = y > 0, 1
    plain = estimator(**QUICK).fit(X, y)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scaled = estimator(**QUICK).fit(of_x * X, of_y * y)
    np.testing.assert_allclose(scaled.tuning_.value / of_y**2, plain.tuning_.value, rtol=1e-3)
    assert scaled.certificate_.verdict is plain.certificate_.verdict


def test_every_feature_twice_is_one_warning_with_names():
    X, y = made()
    with pytest.warns(SingularDerivativeWarning, match="in 5 of the folds.* feature 0, .* ridge") as caught:
        model = LassoHyperCV(**QUICK).fit(np.column_stack([X, X]), y)
    assert len(caught) == 1
    assert model.certificate_.verdict is Verdict.LEAST_SQUARES
    np.testing.assert_allclose(
        model.predict(np.column_stack([X, X])), LassoHyperCV(**QUICK).fit(X, y).predict(X), rtol=0.02
    )


@pytest.mark.parametrize("estimator", REGRESSORS)
def test_nothing_to_explain(estimator):
    X, _ = made()
    for y in (np.full(80, 0.1), np.zeros(80)):
        model = estimator(**QUICK).fit(X, y)
        assert not model.coef_.any()
        np.testing.assert_allclose(model.predict(X), y)
        assert model.certificate_.verdict is Verdict.CLASSICAL
    dull = estimator(**QUICK).fit(np.column_stack([np.zeros(80), np.full(80, 7.0)]), np.arange(80.0))
    assert not dull.coef_.any()


def test_weighted_begins_where_the_lasso_ends():
    # Nearly equal features: the best shared level lies in a hollow that no coarse grid sees.
    rng = np.random.default_rng(0)
    X = rng.standard_normal((100, 1)) + np.sqrt(0.001) * rng.standard_normal((100, 40))
    y = X @ rng.standard_normal(40) + rng.standard_normal(100)
    folds = KFold(5, shuffle=True)  # unseeded: both descents have to see the same
    for cv in (5, folds, iter(list(folds.split(X)))):
        model = WeightedLassoHyperCV(cv=cv).fit(X, y)
        assert model.tuning_.history[0].value >= model.tuning_.value
    assert WeightedLassoHyperCV().fit(X, y).tuning_.value < LassoHyperCV().fit(X, y).tuning_.value


def test_many_features_and_few_samples():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((50, 1000))
    y = X[:, :5].sum(axis=1) + 0.1 * rng.standard_normal(50)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for estimator in (LassoHyperCV, ElasticNetHyperCV):
            model = estimator(max_iter=10).fit(X, y)
            assert model.solution_.converged
            assert model.certificate_.justified


def test_within_scikit_learns_tools():
    X, y = made()
    search = GridSearchCV(LassoHyperCV(max_iter=3), {"n_alphas": np.arange(2, 4), "max_iter": np.array([2])}, cv=3).fit(
        X, y
    )
    assert search.best_params_["n_alphas"] in (2, 3)
    piped = make_pipeline(StandardScaler(), ElasticNetHyperCV(**QUICK)).fit(X, y)
    again = pickle.loads(pickle.dumps(piped))
    np.testing.assert_array_equal(again.predict(X), piped.predict(X))
    np.testing.assert_array_equal(again[-1].solution_.vjp(np.ones(30)), piped[-1].solution_.vjp(np.ones(30)))
    np.testing.assert_array_equal(clone(piped).fit(X, y).predict(X), piped.predict(X))
    labels = np.array(["a", "b", "c"])[np.digitize(y, [-2, 2])]
    assert OneVsRestClassifier(LogisticHyperCV(**QUICK)).fit(X, labels).score(X, labels) > 0.6
    np.testing.assert_allclose(
        LassoHyperCV(**QUICK).fit(X.astype(np.float32), y).coef_, LassoHyperCV(**QUICK).fit(X, y).coef_, atol=1e-4
    )


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"n_alphas": 0}, "n_alphas: got 0, expected a positive integer"),
        ({"max_iter": 1.5}, "max_iter: got 1.5, expected a positive integer"),
        ({"tol": 0}, "tol: got 0, expected a positive number"),
        ({"fit_intercept": "no"}, "fit_intercept: got 'no', expected True or False"),
        ({"solver": None}, "solver: got None, expected one of"),
        ({"cv": "five"}, "cv: got 'five', which does not split these data"),
    ],
)
def test_options_that_are_none(options, said):
    with pytest.raises(ValueError, match=said):
        LassoHyperCV(**options).fit(*made())


# -- what is installed ---------------------------------------------------------------------------------------------------------------


BLOCKED = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {names!r}:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Blocker())
"""


def run(blocked, code):
    return subprocess.run(
        [sys.executable, "-c", BLOCKED.format(names=blocked) + code], capture_output=True, text=True, check=False
    )


def test_it_works_with_scikit_learn_alone():
    code = "from conelayers.lasso import LassoHyperCV; import numpy as np\nX = np.random.default_rng(0).standard_normal((30, 4))\n"
    code += "print(LassoHyperCV(max_iter=2).fit(X, X[:, 0]).alpha_ > 0)"
    done = run(["torch", "jax", "tqdm", "matplotlib", "celer", "skglm", "pandas"], code)
    assert done.stdout.strip() == "True", done.stderr


def test_without_scikit_learn_it_says_what_to_install():
    done = run(["sklearn"], "import conelayers\nimport conelayers.lasso")
    assert "pip install 'scikit-learn" in done.stderr.splitlines()[-1]


def test_progress_needs_tqdm():
    done = run(
        ["tqdm"],
        "import numpy as np\nfrom conelayers.lasso import *\nX = np.eye(4)\ntune(HoldOut(Lasso(), X, X[0], X, X[0]), -3.0, progress=True)",
    )
    assert "progress=True needs tqdm, which is not installed: pip install tqdm" in done.stderr.splitlines()[-1]
