"""Linear programmes as the fluid problem makes them, for HiGHS: minimise a cost over x >= 0, where what flows balances
and no resource is used for longer than there is.

HiGHS itself, and not by way of scipy: a source solves while it works, and scipy would take far more of its memory.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import highspy
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Entries = Iterable[tuple[NDArray[Any], NDArray[Any], NDArray[Any]]]


class SolverError(Exception):
    """HiGHS finds no solution; says why."""


class Matrix:
    """A sparse matrix by its entries, row by row."""

    def __init__(self, entries: Entries, rows: int, columns: int) -> None:
        """`entries` are rows, columns and values of each kind; several at one place are added up."""
        row, column, value = (np.concatenate(part) for part in zip(*entries, strict=True))
        places, which = np.unique(row.astype(np.int64) * columns + column, return_inverse=True)
        self.rows, self.columns = rows, columns
        self.row, self.column = places // columns, places % columns
        self.value = _sums(which, value, len(places))

    def __matmul__(self, x: Array) -> Array:
        """A x: (rows,)."""
        return _sums(self.row, self.value * x[self.column], self.rows)

    def transposed(self, y: Array) -> Array:
        """A' y: (columns,)."""
        return _sums(self.column, self.value * y[self.row], self.columns)


@dataclass(frozen=True, slots=True, eq=False)
class Solution:
    """`prices` (>= 0): by how much the cost falls with one more of each resource."""

    x: Array
    prices: Array


def solve(cost: Array, capacity: Matrix, flow: Matrix) -> Solution:
    """Minimise cost x over x >= 0 with capacity x <= 1 and flow x = 0. Raises SolverError."""
    programme = highspy.HighsLp()
    programme.num_col_, programme.num_row_ = len(cost), capacity.rows + flow.rows
    programme.col_cost_, programme.col_lower_ = cost, np.zeros(len(cost))
    programme.col_upper_ = np.full(len(cost), highspy.kHighsInf)
    programme.row_lower_ = np.concatenate([np.full(capacity.rows, -highspy.kHighsInf), np.zeros(flow.rows)])
    programme.row_upper_ = np.concatenate([np.ones(capacity.rows), np.zeros(flow.rows)])
    assert all(np.isfinite(numbers).all() for numbers in (cost, capacity.value, flow.value))
    row = np.concatenate([capacity.row, capacity.rows + flow.row])
    matrix = programme.a_matrix_
    matrix.format_ = highspy.MatrixFormat.kRowwise
    matrix.start_ = np.searchsorted(row, np.arange(programme.num_row_ + 1))
    matrix.index_ = np.concatenate([capacity.column, flow.column])
    matrix.value_ = np.concatenate([capacity.value, flow.value])
    highs: Any = highspy.Highs()  # type: ignore[no-untyped-call]
    highs.setOptionValue("output_flag", False)
    if highs.passModel(programme) == highspy.HighsStatus.kError:
        raise SolverError("they differ by too much")
    highs.run()
    if (status := highs.getModelStatus()) != highspy.HighsModelStatus.kOptimal:
        raise SolverError(highs.modelStatusToString(status))
    found = highs.getSolution()
    return Solution(np.array(found.col_value), np.maximum(0.0, -np.array(found.row_dual)[: capacity.rows]))


def _sums(places: NDArray[Any], values: Array, count: int) -> Array:
    sums: Array = np.bincount(places, values, count).astype(np.float64, copy=False)  # for its annotation alone
    return sums
