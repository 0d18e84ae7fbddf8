"""Solvers of the flow on flows whose solution is known: the distance from it by evaluations.

    python benchmarks/solvers.py

The straight paths of conditional flow matching from a normal distribution to a mixture of normal ones have a
velocity in closed form (Lipman et al. 2023, arXiv:2210.02747, theorem 3 with the mixture's posterior):

    x_t | k ~ N(t m_k, v_k),  v_k = (1 - t)^2 + t^2 s_k^2        u(t, x) = E[x_1 - x_0 | x_t = x]

`smooth` has broad components, `sharp` narrow ones, whose velocity turns late and fast, as that of a model
which is sure of its answers. Beside the package's solvers stands a multistep one that predicts the end of
the path and not the velocity (DPM-Solver++ 2M: Lu et al. 2022, arXiv:2211.01095, for these paths). Two
seconds of one core.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from enhance_ray.errors import ConfigError
from enhance_ray.models import ode

Points = NDArray[np.float64]
DIMENSIONS, COMPONENTS, POINTS = 8, 12, 256
EVALUATIONS = (2, 4, 8, 16, 32, 64)
DIVISOR = 4
"""How unevenly the original lays its steps."""
FLOWS = {"smooth": (0.6, 1.0), "sharp": (0.05, 0.2)}
"""Least and most deviation of a component."""


def velocity_of(means: Points, deviations: Points) -> Callable[[float, Points], Points]:
    """u(t, x) of (point, dimension)."""

    def velocity(t: float, x: Points) -> Points:
        variances = (1 - t) ** 2 + t**2 * deviations**2
        offsets = x[:, None] - t * means
        log = -np.square(offsets).sum(-1) / (2 * variances) - DIMENSIONS / 2 * np.log(variances)
        weights = np.exp(log - log.max(1, keepdims=True))
        weights /= weights.sum(1, keepdims=True)
        # E[x_1] - E[x_0] of each component.
        ends = means + offsets * ((t * deviations**2 - (1 - t)) / variances)[:, None]
        answer: Points = np.einsum("pk,pkd->pd", weights, ends)
        return answer

    return velocity


def dpm_2m(velocity: Callable[[float, Points], Points], x: Points, nfe: int) -> Points:
    """Steps of one length, linear in the end of the path: D = x + (1 - t) u, dx/dt = (D - x) / (1 - t)."""
    before = None
    for step in range(nfe):
        t, end = step / nfe, (step + 1) / nfe
        ahead = x + (1 - t) * velocity(t, x)
        guess = ahead if before is None else 1.5 * ahead - 0.5 * before
        x = (1 - end) / (1 - t) * x + (end - t) / (1 - t) * guess
        before = ahead
    return x


def compare(velocity: Any, start: Points) -> dict[str, list[float]]:
    """Distances from the solution by solver, for each of `EVALUATIONS`, in shares of the solution's size."""
    exact = ode.integrate(velocity, start, solver="rk4", nfe=8192)

    def packaged(solver: Any, divisor: int = 2) -> Callable[[int], Points]:
        return lambda nfe: ode.integrate(velocity, start, solver=solver, nfe=nfe, divisor=divisor)

    ways = {
        "euler": packaged("euler"),
        "midpoint": packaged("midpoint"),
        "midpoint, the original's steps": packaged("midpoint", DIVISOR),
        "rk4, the original's steps": packaged("rk4", DIVISOR),
        "ab2": packaged("ab2"),
        "DPM-Solver++ 2M": lambda nfe: dpm_2m(velocity, start, nfe),
    }
    found: dict[str, list[float]] = {}
    for name, solve in ways.items():
        found[name] = []
        for nfe in EVALUATIONS:
            try:
                distance = np.square(solve(nfe) - exact).mean() / np.square(exact).mean()
                found[name].append(float(np.sqrt(distance)))
            except ConfigError:  # no step fits
                found[name].append(float("nan"))
    return found


def main() -> None:
    random = np.random.default_rng(0)
    result = {}
    for flow, (least, most) in FLOWS.items():
        means = random.normal(0, 1.5, (COMPONENTS, DIMENSIONS))
        velocity = velocity_of(means, random.uniform(least, most, COMPONENTS))
        result[flow] = compare(velocity, random.normal(size=(POINTS, DIMENSIONS)))
        print(f"\n{flow}: distance from the solution, in shares of its size\n")
        print("| | " + " | ".join(map(str, EVALUATIONS)) + " |\n|---|" + "---:|" * len(EVALUATIONS))
        for name, distances in result[flow].items():
            print(f"| {name} | " + " | ".join(f"{distance:.2g}" for distance in distances) + " |")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
