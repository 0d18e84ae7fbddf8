"""Conditional flow matching in the autoencoder's latent space: degraded mel -> clean latent. Spec 4.4, 4.5.

A network v(x_t, t; mel) learns the velocity of straight paths from a start x0 to a clean latent x1:

    x_t = t x1 + (1 - t) x0 + sigma noise          loss = mean |v(x_t, t; mel) - (x1 - x0)|

Sampling follows v from t = 0 to 1 (see `ode`). Straight paths: Lipman et al. 2023, arXiv:2210.02747; with
noise of a fixed width around them: Tong et al. 2023, arXiv:2302.00482. The start is no plain noise: it
blends the latent of what came in with noise, so that a good recording has a short way.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from enhance_ray.models import ode
from enhance_ray.models.wavenet import VelocityField
from enhance_ray.settings.options import Solver

SIGMA = 1e-4
"""Width of the paths."""


class Flow(nn.Module):
    """The velocity field with its objective and its sampler."""

    def __init__(self, net: VelocityField, *, divisor: int = 4) -> None:
        """Wrap ``net``; ``divisor`` lays the times of training and sampling (`ode.warp`)."""
        super().__init__()
        self.net = net
        self.divisor = divisor

    def forward(
        self,
        x: Float[Tensor, "batch latent frame"],
        t: Float[Tensor, " batch"],
        mel: Float[Tensor, "batch mel frame"],
    ) -> Float[Tensor, "batch latent frame"]:
        """Velocity at ``x`` and times ``t``, one for each row, given ``mel``."""
        velocity: Tensor = self.net(x, self.net.time_biases(t), self.net.condition(mel))
        return velocity

    def loss(
        self,
        x0: Float[Tensor, "batch latent frame"],
        x1: Float[Tensor, "batch latent frame"],
        mel: Float[Tensor, "batch mel frame"],
        *,
        uniform: Float[Tensor, " batch"],
        noise: Float[Tensor, "batch latent frame"],
    ) -> Float[Tensor, ""]:
        """Distance of the velocity from the straight path's, at one time for each row.

        Args:
            x0: where the path starts.
            x1: where it ends.
            mel: the conditioning.
            uniform: draws from U(0, 1), which decide the times.
            noise: standard normal draws around the path.
        """
        t = ode.warp_tensor(uniform, self.divisor)
        share = t[:, None, None]
        x_t = share * x1 + (1 - share) * x0 + SIGMA * noise
        return F.l1_loss(self(x_t, t, mel), x1 - x0)

    def sample(
        self,
        x0: Float[Tensor, "batch latent frame"],
        mel: Float[Tensor, "batch mel frame"],
        *,
        solver: Solver,
        nfe: int,
    ) -> Float[Tensor, "batch latent frame"]:
        """Follow the flow from ``x0`` to a clean latent.

        Raises:
            ConfigError: no step of ``solver`` fits into ``nfe`` evaluations.
        """
        times = ode.evaluation_times(solver, nfe, self.divisor)
        biases = self.net.time_biases(torch.tensor(times, dtype=torch.float32, device=x0.device))
        at = dict(zip(times, biases.unbind(1), strict=True))
        conditions = self.net.condition(mel)

        def velocity(t: float, x: Tensor) -> Tensor:
            result: Tensor = self.net(x, at[t][:, None], conditions)
            return result

        return ode.integrate(velocity, x0, solver=solver, nfe=nfe, divisor=self.divisor)
