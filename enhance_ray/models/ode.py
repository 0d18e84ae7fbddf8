"""Solvers of dx/dt = v(t, x) from t = 0 to 1 in a given number of evaluations of v. Spec 4.5.

| solver | order | evaluations a step |
|---|---|---|
| euler | 1 | 1 |
| midpoint | 2 | 2 |
| rk4 | 4 | 4 |
| ab2 | 2 | 1 |

(E. Hairer, S. P. Norsett, G. Wanner, "Solving Ordinary Differential Equations I", 1993, II.1 and III.1.) The
first three are the original's, with its steps (`warp`). The method of Adams and Bashforth uses the velocity
before as well, begins with an Euler step, and makes steps of one length: at few evaluations it comes closest
to what many give (benchmarks/nfe.py).

``nfe`` is what an integration may cost: as many whole steps are made as fit, so midpoint spends 6 of 7. A
single evaluation is an Euler step whatever the solver; where no step fits otherwise, the request is refused.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable
from typing import TypeVar

from jaxtyping import Float
from torch import Tensor

from enhance_ray.errors import ConfigError
from enhance_ray.settings.options import Solver

State = TypeVar("State", Tensor, float)
Velocity = Callable[[float, State], State]


def euler(v: Velocity[State], t: float, dt: float, x: State) -> State:
    """One step along the velocity at its start."""
    return x + dt * v(t, x)


def midpoint(v: Velocity[State], t: float, dt: float, x: State) -> State:
    """One step along the velocity in its middle."""
    return x + dt * v(t + dt / 2, x + dt * v(t, x) / 2)


def rk4(v: Velocity[State], t: float, dt: float, x: State) -> State:
    """One step of the classical Runge-Kutta method."""
    k1 = v(t, x)
    k2 = v(t + dt / 2, x + dt * k1 / 2)
    k3 = v(t + dt / 2, x + dt * k2 / 2)
    k4 = v(t + dt, x + dt * k3)
    return x + dt * (k1 + 2 * k2 + 2 * k3 + k4) / 6


def adams_bashforth(v: Velocity[State], dt: float, count: int, x: State) -> State:
    """``count`` steps of one length from t = 0 along 3/2 of the velocity less 1/2 of the one before."""
    before = v(0.0, x)
    x = x + dt * before
    for i in range(1, count):
        now = v(i * dt, x)
        x = x + dt * (1.5 * now - 0.5 * before)
        before = now
    return x


_STEPS = {"euler": euler, "midpoint": midpoint, "rk4": rk4}
_EVALUATIONS = {"euler": 1, "midpoint": 2, "rk4": 4, "ab2": 1}


def steps(solver: Solver, nfe: int) -> tuple[Solver, int]:
    """The solver that is used for ``nfe`` evaluations, and its number of steps.

    Raises:
        ConfigError: no step fits.
    """
    if nfe == 1:
        return "euler", 1
    count = nfe // _EVALUATIONS[solver]
    if count < 1:
        raise ConfigError(
            "nfe", f"{solver} needs at least {_EVALUATIONS[solver]} evaluations, or 1, got {nfe}"
        )
    return solver, count


def time_grid(solver: Solver, nfe: int, divisor: int) -> list[float]:
    """Times between the steps of one of the original's solvers, from 0 to 1, denser where `warp` is flat.

    Raises:
        ConfigError: no step fits.
    """
    _, count = steps(solver, nfe)
    return [warp(i / count, divisor) for i in range(count + 1)]


def integrate(velocity: Velocity[State], x0: State, *, solver: Solver, nfe: int, divisor: int = 2) -> State:
    """x(1) of the path that starts in x(0) = ``x0``.

    Args:
        velocity: v(t, x); t is a Python float, so that no precision is lost before it is used.
        x0: where to start.
        solver: of the table above.
        nfe: most evaluations of ``velocity``.
        divisor: how unevenly the steps are laid, see `warp`; 2 is evenly.

    Raises:
        ConfigError: no step fits into ``nfe``.
    """
    name, count = steps(solver, nfe)
    if name == "ab2":
        return adams_bashforth(velocity, 1 / count, count, x0)
    grid = time_grid(solver, nfe, divisor)
    x = x0
    for start, end in itertools.pairwise(grid):
        x = _STEPS[name](velocity, start, end - start, x)
    return x


@functools.lru_cache
def evaluation_times(solver: Solver, nfe: int, divisor: int) -> tuple[float, ...]:
    """The times at which `integrate` evaluates the velocity, in order."""
    times: list[float] = []

    def note(t: float, x: float) -> float:
        times.append(t)
        return x

    integrate(note, 0.0, solver=solver, nfe=nfe, divisor=divisor)
    return tuple(times)


def warp(t: float, divisor: int) -> float:
    """Map uniform times to (a^t - 1) / (a - 1), with a such that 1 / ``divisor`` becomes 1/2.

    The steps at the start, where the velocity hardly changes, become long, those at the end short.
    """
    rate = warp_rate(divisor)
    return math.expm1(rate * t) / math.expm1(rate) if rate else t


@functools.lru_cache
def warp_rate(divisor: int) -> float:
    """ln a of `warp`: with q = a^(1/divisor), 1 + q + ... + q^(divisor-1) = 2.

    Raises:
        ConfigError: below 2 there is no such a.
    """
    if divisor < 2:
        raise ConfigError("divisor", f"must be at least 2, got {divisor}")
    if divisor == 2:
        return 0.0
    low, high = 0.0, 1.0
    for _ in range(60):  # bisection: the sum grows with q
        q = (low + high) / 2
        low, high = (q, high) if sum(q**i for i in range(divisor)) < 2 else (low, q)
    return divisor * math.log(q)


def warp_tensor(t: Float[Tensor, "*shape"], divisor: int) -> Float[Tensor, "*shape"]:
    """`warp` of each element, for times that are drawn in training."""
    rate = warp_rate(divisor)
    return (rate * t).expm1() / math.expm1(rate) if rate else t
