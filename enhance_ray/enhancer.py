"""Models on a device, and the Python face of the engine: arrays and streams in, arrays and streams out."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import logging
import math
import sys
from collections.abc import Iterable, Iterator, Sequence
from numbers import Real
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from enhance_ray import checkpoint, resemble
from enhance_ray.engine.analysis import BLOCK_SECONDS
from enhance_ray.engine.batching import Batcher
from enhance_ray.engine.framing import Framing
from enhance_ray.engine.restore import Restoration
from enhance_ray.errors import CheckpointError, ConfigError
from enhance_ray.memory import keep_large_blocks
from enhance_ray.models import ode
from enhance_ray.models.enhancer import EnhancerNet
from enhance_ray.models.precision import resolve_precision
from enhance_ray.settings.options import EnhanceOptions, Precision

logger = logging.getLogger(__name__)

Waveform = TypeVar("Waveform", NDArray[np.floating], Tensor)
Layout = Literal["channel_time", "time_channel"]
"""Order of the dimensions of an array."""

_MOST_CHANNELS = 64
"""More are samples, in an array whose dimensions are the other way round."""

_GPU_BYTES_PER_ROW = {"denoise": 3 * 2**29, "enhance": 3 * 2**30}
"""Of 30 s at the original's size, on the safe side of what a CPU's process grows by."""


class Enhancer:
    """Models on a device, ready for recordings.

    One object may be used from several threads, one call of `run` at a time; options travel with each call.
    """

    def __init__(
        self,
        denoiser: nn.Module,
        net: EnhancerNet | None = None,
        *,
        framing: Framing | None = None,
        fingerprint: str = "unknown",
        device: str = "auto",
        precision: Precision = "auto",
        compiled: bool = False,
    ) -> None:
        """Wrap networks that are in memory; `load` reads a model.

        Args:
            denoiser: (batch, time) at 44.1 kHz -> the same shape, time-aligned; what comes out is at
                the level of an input with a peak of 1.
            net: the whole enhancer, of which ``denoiser`` is a part. It is frozen (`EnhancerNet.freeze`):
                give a copy if it is to be trained on.
            framing: of the models; by default the original's.
            fingerprint: identifies the weights in records.
            device: "auto", "cpu", "cuda", "cuda:N" or "mps".
            precision: "bf16" runs convolutions in bfloat16; "auto" does so where the processor
                computes in it natively. "fp32" means it: no TF32 on a GPU.
            compiled: compile parts of the enhancer when they first run (`kernels.compiled`): ten to thirty
                seconds of a process, after which it is about a third faster. Needs a C++ compiler on a CPU.

        Raises:
            ConfigError: the device is unknown or absent.
        """
        self.device = resolve_device(device)
        if self.device.type == "cpu":
            keep_large_blocks()
        self.precision = resolve_precision(precision, self.device)
        self.net = net
        """The whole enhancer; None if the model is a denoiser alone."""
        if net is not None:
            # Frozen where it runs: what is faster depends on the device.
            net.to(self.device).freeze(torch.bfloat16 if self.precision == "bf16" else torch.float32)
            if compiled:
                net.compile_kernels()
        self.denoiser = denoiser.eval().to(self.device)
        self.fingerprint = fingerprint
        self._most_rows = sys.maxsize  # that memory was seen not to be too small for
        self.framing = framing or Framing()
        """How recordings are cut for the models."""

    @classmethod
    def load(
        cls,
        model: str | Path = checkpoint.DEFAULT,
        *,
        device: str = "auto",
        precision: Precision = "auto",
        compiled: bool = False,
        denoiser_only: bool = False,
    ) -> Enhancer:
        """Read a model.

        Args:
            model: a model folder; ``"default"``, the one in this package; or a run folder of the original,
                local, at an fsspec URI, or on the Hugging Face Hub (see `resemble`).
            device: "auto", "cpu", "cuda", "cuda:N" or "mps".
            precision: "auto", "fp32" or "bf16", see the constructor.
            compiled: see the constructor.
            denoiser_only: of an enhancer, read the denoiser alone, which is a fraction of it.

        Raises:
            CheckpointError: the model cannot be used.
            ConfigError: the device is unknown or absent.
        """
        loaded = resemble.load_model(model, denoiser_only=denoiser_only)
        if loaded.config.kind == "autoencoder" and not denoiser_only:
            raise CheckpointError(
                loaded.path,
                "it is a stage 1 model, autoencoder and vocoder, and cannot restore: train stage 2 on it",
            )
        return cls(
            loaded.denoiser,
            loaded.net,
            framing=Framing(
                loaded.denoiser.config.hop,
                loaded.denoiser.shortest,
                keeps_waves=loaded.net is not None and loaded.net.config.source_filter is not None,
            ),
            fingerprint=loaded.fingerprint,
            device=device,
            precision=precision,
            compiled=compiled,
        )

    def check(self, options: EnhanceOptions) -> None:
        """Say before work starts whether this model can do what ``options`` ask for.

        Raises:
            ConfigError: it is a denoiser and is to enhance, or no step of the solver fits into nfe.
        """
        if options.mode == "enhance":
            if self.net is None:
                raise ConfigError(
                    "mode",
                    "this model is a denoiser alone and cannot enhance; give a whole one, such as "
                    f"{resemble.PUBLISHED}",
                )
            ode.steps(*options.sampling(self.net.config.nfe))

    @property
    def batch_size(self) -> int:
        """Rows that run at once unless told otherwise: a CPU gains little from several, a GPU has as many
        as its free memory is likely to hold. Where that was wrong, `run` makes do with fewer."""
        if self.device.type != "cuda":
            return 1 if self.device.type == "cpu" else 8
        free, _ = torch.cuda.mem_get_info(self.device)
        needed = _GPU_BYTES_PER_ROW["denoise" if self.net is None else "enhance"]
        return min(16, max(1, free // needed))

    def denoise(
        self,
        waveform: Waveform,
        sample_rate: int,
        options: EnhanceOptions | None = None,
        *,
        layout: Layout = "channel_time",
    ) -> tuple[Waveform, int]:
        """Remove what is not speech from a recording in memory.

        Args:
            waveform: (channel, time) or (time,), floating point, full scale at 1; NumPy or torch.
            sample_rate: of ``waveform``, in Hz.
            options: what to do; the defaults of `EnhanceOptions` if None.
            layout: "time_channel" for (time, channel), as `soundfile.read` gives it.

        Returns:
            float32 of the same kind, dimensions and layout with ceil(time rate / sample_rate) samples,
            and their rate, 44,100 Hz unless the options say otherwise.

        Raises:
            AudioError: the waveform is empty or holds NaN or infinite samples.
            ConfigError: it is no floating-point array of one or two dimensions, or has them in another order.
        """
        return self._process(waveform, sample_rate, _in_mode(options, "denoise"), layout)

    def enhance(
        self,
        waveform: Waveform,
        sample_rate: int,
        options: EnhanceOptions | None = None,
        *,
        layout: Layout = "channel_time",
    ) -> tuple[Waveform, int]:
        """Restore a recording in memory: remove noise, undo distortion, extend the band to 44.1 kHz.

        Arguments and result are those of `denoise`.

        Raises:
            AudioError: the waveform is empty or holds NaN or infinite samples.
            ConfigError: it is no floating-point array of one or two dimensions, or `check` refuses.
        """
        return self._process(waveform, sample_rate, _in_mode(options, "enhance"), layout)

    def _process(
        self, waveform: Waveform, sample_rate: int, options: EnhanceOptions, layout: Layout
    ) -> tuple[Waveform, int]:
        rows, sample_rate = _as_tensor(waveform), _as_rate(sample_rate)
        if rows.ndim not in (1, 2):
            raise ConfigError(
                "waveform", f"expected (channel, time) or (time,), got shape {tuple(rows.shape)}"
            )
        if layout == "time_channel":
            rows = rows.T.contiguous() if rows.ndim == 2 else rows
        elif layout != "channel_time":
            raise ConfigError("layout", f"expected channel_time or time_channel, got {layout}")
        if rows.ndim == 2 and len(rows) > _MOST_CHANNELS:
            raise ConfigError(
                "waveform",
                f"its shape {tuple(rows.shape)} means {len(rows):,} channels: expected (channel, time); "
                "soundfile.read gives (time, channel): pass its transpose, or layout='time_channel'",
            )
        blocks = torch.atleast_2d(rows).split(BLOCK_SECONDS * sample_rate, dim=-1)
        output = torch.cat(
            list(self.stream(blocks, sample_rate, len(blocks[0]), options, name="the waveform")),
            dim=-1,
        )
        if rows.ndim == 1:
            output = output[0]
        elif layout == "time_channel":
            output = output.T
        rate = options.output_rate(sample_rate)
        return (output.to(waveform.device) if isinstance(waveform, Tensor) else output.numpy()), rate

    def denoise_stream(
        self,
        blocks: Iterable[Waveform],
        sample_rate: int,
        channels: int,
        options: EnhanceOptions | None = None,
        *,
        batch_size: int | None = None,
        name: str = "the stream",
    ) -> Iterator[Waveform]:
        """`denoise` for a recording of any length that arrives in blocks: `stream` in that mode."""
        return self.stream(
            blocks, sample_rate, channels, _in_mode(options, "denoise"), batch_size=batch_size, name=name
        )

    def enhance_stream(
        self,
        blocks: Iterable[Waveform],
        sample_rate: int,
        channels: int,
        options: EnhanceOptions | None = None,
        *,
        batch_size: int | None = None,
        name: str = "the stream",
    ) -> Iterator[Waveform]:
        """`enhance` for a recording of any length that arrives in blocks: `stream` in that mode."""
        return self.stream(
            blocks, sample_rate, channels, _in_mode(options, "enhance"), batch_size=batch_size, name=name
        )

    def stream(
        self,
        blocks: Iterable[Waveform],
        sample_rate: int,
        channels: int,
        options: EnhanceOptions | None = None,
        *,
        batch_size: int | None = None,
        name: str = "the stream",
    ) -> Iterator[Waveform]:
        """What ``options`` say, to a recording of any length that arrives in blocks.

        Memory is bounded: about two segments, whatever the recording's length. With a loudness target
        the output waits in a temporary file until all is known.

        Args:
            blocks: (channel, time) each, of any lengths; NumPy or torch, all of one kind.
            sample_rate: of the blocks, in Hz.
            channels: of the blocks.
            options: what to do; the defaults of `EnhanceOptions` if None.
            batch_size: rows that run at once; by default what suits the device.
            name: what errors call the recording.

        Yields:
            Blocks of the same kind, at 44,100 Hz unless the options say otherwise.

        Raises:
            AudioError: the recording is empty or holds NaN or infinite samples.
            ConfigError: a block is no floating-point array of shape (channel, time), or `check` refuses.
        """
        options = options or EnhanceOptions()
        self.check(options)
        sample_rate = _as_rate(sample_rate)
        batcher: Batcher[None] = Batcher(self, options, batch_size or self.batch_size)
        send = functools.partial(batcher.results, None)
        restoration = Restoration(self.framing, send, sample_rate, channels, options, name=name)
        remaining = iter(blocks)
        first = list(itertools.islice(remaining, 1))
        as_numpy = any(isinstance(block, np.ndarray) for block in first)
        for output in restoration.blocks(map(_as_tensor, itertools.chain(first, remaining))):
            yield cast(Waveform, output.numpy() if as_numpy else output)
        if warning := restoration.facts().warning:
            logger.warning("%s: %s", name, warning)

    @torch.inference_mode()
    def run(
        self,
        rows: Tensor,
        options: EnhanceOptions,
        starts: Sequence[int],
        cuts: Tensor | None = None,
        *,
        denoised: Tensor | None = None,
    ) -> Tensor:
        """The model on (row, time), as one batch: to the device and back, in float32.

        A guard chooses between versions: where `options.guard` asks for one and the mode is to enhance, the
        answer is (row, 2, time), enhanced and denoised.

        Rows do not influence each other, up to rounding. Where the device's memory does not hold all of them,
        they run in two halves, and so do later batches of that size.

        Args:
            rows: of one of the lengths that `Framing.row_length` gives.
            options: what to do.
            starts: first sample of each row in its recording, a multiple of a frame.
            cuts: (row,): where the band of each ends, in Hz; by default that is not known.
            denoised: to enhance, what the denoiser made of ``rows``, where that is known already.
        """
        most = self._most_rows
        if len(rows) > most:
            parts = [slice(first, first + most) for first in range(0, len(rows), most)]
        else:
            try:
                return self._run(rows, options, starts, cuts, denoised)
            except torch.OutOfMemoryError:
                if len(rows) == 1:
                    raise
                self._most_rows = half = (len(rows) + 1) // 2
                logger.warning("not enough memory for %d segments at once: trying %d", len(rows), half)
                parts = [slice(0, half), slice(half, None)]
            torch.cuda.empty_cache()  # outside the handler, which holds on to the tensors of what failed
        return torch.cat(
            [
                self.run(
                    rows[part],
                    options,
                    starts[part],
                    None if cuts is None else cuts[part],
                    denoised=None if denoised is None else denoised[part],
                )
                for part in parts
            ]
        )

    def _run(
        self,
        rows: Tensor,
        options: EnhanceOptions,
        starts: Sequence[int],
        cuts: Tensor | None,
        denoised: Tensor | None,
    ) -> Tensor:
        rows = rows.to(self.device)
        with self._exact_convolutions():
            if options.mode == "enhance":
                assert self.net is not None, "check() comes first"
                if denoised is not None:
                    denoised = denoised.to(self.device)
                elif options.guard:
                    denoised = self.net.denoised(rows)
                output: Tensor = self.net(
                    rows,
                    options,
                    denoised=denoised,
                    first_frames=[start // self.framing.hop for start in starts],
                    cuts=cuts,
                )
                output = nn.functional.pad(output, (0, rows.shape[-1] - output.shape[-1]))
                if options.guard:
                    assert denoised is not None
                    output = torch.stack([output, denoised], dim=1)
            else:
                bf16 = self.precision == "bf16"
                with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=bf16):
                    output = self.denoiser(rows)
        return output.float().cpu()

    def _exact_convolutions(self) -> contextlib.AbstractContextManager[None]:
        """Where float32 was asked for, cuDNN is not to round to TF32, as it does by default (spec 8.1)."""
        if self.device.type == "cuda" and self.precision == "fp32":
            return torch.backends.cudnn.flags(enabled=True, allow_tf32=False)
        return contextlib.nullcontext()


def resolve_device(name: str) -> torch.device:
    """The device called ``name``; "auto" is the first GPU, or else the CPU.

    Raises:
        ConfigError: there is no such device here. Nothing falls back to another one.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda", 0)
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError("device", f"expected auto, cpu, cuda, cuda:N or mps, got '{name}'") from error
    if device.type not in ("cpu", "cuda", "mps"):
        raise ConfigError("device", f"expected auto, cpu, cuda, cuda:N or mps, got '{name}'")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(
            "device", f"'{name}' is absent: {torch.cuda.device_count()} CUDA devices are usable"
        )
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise ConfigError("device", "'mps' is absent on this machine")
    return device


def _as_rate(sample_rate: Any) -> int:
    """A rate as whole Hz, which 44100.0 is too."""
    if isinstance(sample_rate, Real) and not isinstance(sample_rate, bool):
        rate = float(sample_rate)
        if math.isfinite(rate) and rate > 0 and rate == int(rate):
            return int(rate)
    raise ConfigError("sample_rate", f"expected a positive whole number of Hz, got {sample_rate!r:.40}")


def _in_mode(options: EnhanceOptions | None, mode: Literal["denoise", "enhance"]) -> EnhanceOptions:
    return dataclasses.replace(options or EnhanceOptions(), mode=mode)


def _as_tensor(waveform: Any) -> Tensor:
    """As float32 on the CPU, sharing memory where that is possible."""
    if isinstance(waveform, Real):
        raise ConfigError("waveform", "it is a number: the waveform comes first, then its sample_rate")
    if isinstance(waveform, str | Path):
        raise ConfigError(
            "waveform",
            "it is a path: read the file first, with soundfile.read, or give it to files.enhance_files",
        )
    if not isinstance(waveform, Tensor):
        try:
            waveform = np.asarray(waveform)
        except ValueError as error:
            raise ConfigError("waveform", "its channels differ in length") from error
        if not np.issubdtype(waveform.dtype, np.floating):
            raise ConfigError(
                "waveform",
                f"expected floating point with full scale at 1, got {waveform.dtype}"
                + (": divide it by 32768" if waveform.dtype == np.int16 else ""),
            )
        return torch.from_numpy(np.require(waveform, np.float32, ["C", "W"]))
    if not waveform.is_floating_point():
        raise ConfigError("waveform", f"expected floating point with full scale at 1, got {waveform.dtype}")
    return waveform.detach().to("cpu", torch.float32)
