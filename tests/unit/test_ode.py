"""Solvers are tested by their order and by what they spend."""

import math
from typing import get_args

import pytest
import torch

from enhance_ray.errors import ConfigError
from enhance_ray.models import ode
from enhance_ray.settings.options import Solver

ORDERS = {"euler": 1, "midpoint": 2, "rk4": 4, "ab2": 2}


@pytest.mark.parametrize("solver", get_args(Solver))
@pytest.mark.parametrize("divisor", [2, 4])
def test_halving_the_step_divides_the_error_by_two_to_the_order(solver, divisor):
    x0 = torch.ones(1, 1, 1, dtype=torch.float64)
    coarse, fine = (
        abs(ode.integrate(lambda t, x: -x, x0, solver=solver, nfe=nfe, divisor=divisor).item() - math.exp(-1))
        for nfe in (32, 64)
    )
    assert math.log2(coarse / fine) == pytest.approx(ORDERS[solver], abs=0.15)


@pytest.mark.parametrize(
    ("solver", "nfe", "spent"),
    [("euler", 7, 7), ("midpoint", 7, 6), ("rk4", 7, 4), ("ab2", 7, 7), ("midpoint", 1, 1), ("rk4", 1, 1)],
)
def test_nfe_bounds_the_evaluations(solver, nfe, spent):
    calls = []
    ode.integrate(lambda t, x: calls.append(t) or x, 0.0, solver=solver, nfe=nfe, divisor=4)
    assert len(calls) == spent
    assert tuple(calls) == ode.evaluation_times(solver, nfe, 4)


@pytest.mark.parametrize("nfe", [2, 3])
def test_what_would_integrate_nothing_is_refused(nfe):
    with pytest.raises(ConfigError, match=f"nfe: rk4 needs at least 4 evaluations, or 1, got {nfe}"):
        ode.integrate(lambda t, x: x, 0.0, solver="rk4", nfe=nfe)


@pytest.mark.parametrize("divisor", [2, 3, 4, 5, 8])
def test_the_warped_grid_reaches_half_at_one_divisor_th(divisor):
    assert ode.warp(0, divisor) == 0
    assert ode.warp(1, divisor) == pytest.approx(1, abs=1e-15)
    assert ode.warp(1 / divisor, divisor) == pytest.approx(0.5, abs=1e-12)


def test_warped_tensors_are_warped_numbers():
    t = torch.linspace(0, 1, 11, dtype=torch.float64)
    expected = torch.tensor([ode.warp(float(x), 4) for x in t], dtype=torch.float64)
    torch.testing.assert_close(ode.warp_tensor(t, 4), expected)


def test_a_divisor_without_a_solution_is_refused():
    with pytest.raises(ConfigError, match="divisor"):
        ode.warp_rate(1)
