"""The folds of cross-validation: which rows a model is fitted to, and by which it is judged."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.model_selection import check_cv

__all__ = ["checked_splits"]


def checked_splits(cv: Any, X: np.ndarray, y: np.ndarray, classification: bool) -> list[tuple[np.ndarray, np.ndarray]]:
    """The rows to which a model is fitted and the rows by which it is judged, one pair for each fold.

    Raises ValueError naming the fold that has too few rows, or one class only.
    """
    try:
        found = list(check_cv(cv, y, classifier=classification).split(X, y))
    except ValueError as error:
        raise ValueError(
            f"cv: got {cv!r}, which does not split these data: {error} Expected a number of folds from 2 on, a "
            "splitter that needs neither groups nor anything else, or pairs of index arrays, as from "
            "list(splitter.split(X, y, groups))"
        ) from error
    if not found:
        raise ValueError("cv: got no split, expected at least one; an iterator is used up by one fit, so pass a list")
    rows, splits = np.arange(len(y)), []
    for k, (train, test) in enumerate(found):
        try:
            fitted, judged = rows[train], rows[test]
        except IndexError as error:
            raise ValueError(
                f"cv: got indices in split {k} that are no rows of X, expected 0 to {len(y) - 1}"
            ) from error
        if not fitted.size or not judged.size:
            raise ValueError(
                f"cv: got {fitted.size} rows to fit to and {judged.size} to judge by in split {k}, expected one at "
                "least of each"
            )
        if classification and np.ptp(y[fitted]) == 0:
            raise ValueError(
                f"cv: got one class only among the rows to fit to in split {k}, expected both; shuffle or stratify, or "
                "take fewer folds"
            )
        splits.append((fitted, judged))
    return splits
