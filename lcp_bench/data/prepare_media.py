"""Reading pictures and sound of a source video by time, for cutting.

Everything is on one clock per file: zero is the time stamp of its first picture (of its first sample in a file of
sound alone). A picture of the result at time t is the source picture whose time stamp is nearest to t, the earlier one
of two equally near; that never moves lips and sound by more than half a source frame. Sound is averaged to one channel
and resampled to 16 kHz, and cut at the exact sample.

The file is opened again by `lcp_bench.video` for writing only; this module writes nothing.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import av
import numpy as np
from numpy.typing import NDArray

from lcp_bench.video import MediaError, probe

FPS = 25
"""Frame rate of prepared clips; 25 fps and 16 kHz are the convention of the models and of the lip-sync metric."""
RATE_HZ = 16000
MAX_GAP_S = 0.2
"""A source picture further than this from the wanted time means that pictures are missing there."""
SOUND_TOLERANCE_S = 1 / FPS
"""Sound may start late or end early by one frame of the result; it is then silent there."""
MARGIN_S = 0.1
"""Sound decoded before and after the cut, so that the resampling filter sees its neighbours."""
JUMP_S = 0.02
"""Time stamps of sound that differ by less from the running count are rounding of the container."""
HD_HEIGHT = 720
UNSPECIFIED = 2
ITU709 = 1


def pictures_at(path: Path, times: Sequence[float]) -> Iterator[NDArray[np.uint8]]:
    """The pictures shown nearest to the given times.

    Args:
        path: Video file.
        times: Seconds since the first picture, ascending.

    Yields:
        uint8 (height, width, 3) RGB per time. Untagged video of 720 lines and more is taken as BT.709, as players do.

    Raises:
        MediaError: Unreadable or damaged, or no picture near a wanted time.
    """
    with _opened(path) as container:
        if not container.streams.video:
            raise MediaError(f"{path} has no video stream; get the file again with pictures")
        stream = container.streams.video[0]
        wanted = deque(times)
        origin = _origin(stream)
        _seek(container, stream, origin + times[0])
        period = 1 / float(stream.average_rate or FPS)
        shown: tuple[float, Any] | None = None
        for frame in container.decode(stream):
            if frame.pts is None:
                continue
            now = frame.time - origin
            if shown is not None:
                yield from _until((shown[0] + now) / 2, wanted, shown, path)
            if not wanted:
                return
            shown = (now, frame)
        if shown is not None:
            yield from _until(shown[0] + period + 1e-6, wanted, shown, path)
        if wanted:
            end = shown[0] + period if shown else 0.0
            raise MediaError(f"{path}: pictures end at {end:.2f} s, needed up to {wanted[-1]:.2f} s; replace it")


def _until(limit_s: float, wanted: deque[float], shown: tuple[float, Any], path: Path) -> Iterator[NDArray[np.uint8]]:
    """The picture `shown`, once for every wanted time up to `limit_s`."""
    pixels: NDArray[np.uint8] | None = None
    while wanted and wanted[0] <= limit_s:
        if abs(wanted[0] - shown[0]) > MAX_GAP_S:
            raise MediaError(
                f"{path} has no picture within {MAX_GAP_S} s of {wanted[0]:.2f} s (nearest: {shown[0]:.2f} s)"
            )
        if pixels is None:
            if shown[1].is_corrupt:
                raise MediaError(f"{path} is damaged at {shown[0]:.2f} s; replace it")
            pixels = _rgb(shown[1])
        wanted.popleft()
        yield pixels


def _rgb(frame: Any) -> NDArray[np.uint8]:
    untagged_hd = frame.colorspace == UNSPECIFIED and frame.height >= HD_HEIGHT
    options = {"src_colorspace": ITU709} if untagged_hd else {}
    return cast(NDArray[np.uint8], frame.to_ndarray(format="rgb24", **options))


def sound_at(path: Path, start_s: float, seconds: float) -> NDArray[np.float32]:
    """Sound between two times, as one channel at 16 kHz.

    Args:
        path: Video with sound, or sound alone.
        start_s: Begin, in seconds of the file's clock.
        seconds: Length.

    Returns:
        float32 (round(seconds * 16000),) in [-1, 1].

    Raises:
        MediaError: Unreadable, no sound, sound that does not cover the cut, or nothing but zeros.
    """
    lead_s = min(start_s, MARGIN_S)
    with _opened(path) as container:
        if not container.streams.audio:
            raise MediaError(f"{path} has no sound stream; put the sound beside it, or get the file again with sound")
        stream = container.streams.audio[0]
        origin = _origin(container.streams.video[0] if container.streams.video else stream)
        _seek(container, stream, origin + start_s - lead_s)
        size = math.ceil((lead_s + seconds + MARGIN_S) * stream.rate)
        track = _fill(container, stream, origin + start_s - lead_s, size)
        rate = stream.rate
    late_s, end_s = track.first / rate - lead_s, track.last / rate - lead_s
    if late_s > SOUND_TOLERANCE_S or end_s < seconds - SOUND_TOLERANCE_S:
        raise MediaError(
            f"{path}: sound goes from {start_s + max(late_s, -lead_s):.2f} to {start_s + end_s:.2f} s, needed from "
            f"{start_s:.2f} to {start_s + seconds:.2f} s; replace it"
        )
    begin = round(lead_s * RATE_HZ)
    waveform = _resampled(track.samples, rate)[begin : begin + round(seconds * RATE_HZ)]
    waveform = np.clip(np.pad(waveform, (0, round(seconds * RATE_HZ) - waveform.size)), -1, 1)
    if not np.isfinite(waveform).all() or not waveform.any():
        raise MediaError(f"{path}: the sound from {start_s:.2f} s on is silent or not finite; replace it")
    return waveform.astype(np.float32)


class _Track:
    """Samples (n,) from a given time on, and which part [first, last) of them the file had."""

    def __init__(self, size: int) -> None:
        self.samples = np.zeros(size, np.float32)
        self.first, self.last = size, 0

    def put(self, position: int, part: NDArray[np.float32]) -> None:
        """Lay `part` at `position`, cut to the track."""
        begin, end = max(position, 0), min(position + part.size, self.samples.size)
        if end > begin:
            self.samples[begin:end] = part[begin - position : end - position]
            self.first, self.last = min(self.first, begin), max(self.last, end)


def _fill(container: Any, stream: Any, begin_s: float, size: int) -> _Track:
    """Decode `size` samples from `begin_s` (in the stream's own time), averaged to one channel, laid by time stamp."""
    track = _Track(size)
    planes = av.AudioResampler(format="fltp", layout=stream.layout.name, rate=stream.rate)
    position: int | None = None
    for frame in container.decode(stream):
        stamp = position if frame.pts is None else round((frame.time - begin_s) * stream.rate)
        if position is None or (stamp is not None and abs(stamp - position) > JUMP_S * stream.rate):
            position = stamp or 0
        for part in planes.resample(frame):
            mono = np.asarray(part.to_ndarray(), np.float32).mean(axis=0)
            track.put(position, mono)
            position += mono.size
        if position >= size:
            break
    return track


def _resampled(samples: NDArray[np.float32], rate: int) -> NDArray[np.float32]:
    if rate == RATE_HZ:
        return samples
    resampler = av.AudioResampler(format="fltp", layout="mono", rate=RATE_HZ)
    frame = av.AudioFrame.from_ndarray(cast(Any, np.ascontiguousarray(samples[None])), format="fltp", layout="mono")
    frame.sample_rate = rate
    parts = [part.to_ndarray() for each in (frame, None) for part in resampler.resample(each)]
    return np.asarray(np.concatenate(parts, axis=1)[0], dtype=np.float32)


def _origin(stream: Any) -> float:
    return float(stream.start_time * stream.time_base) if stream.start_time is not None else 0.0


def _seek(container: Any, stream: Any, time_s: float) -> None:
    """To the last key frame well before a time; a second earlier than needed because decoders start up roughly."""
    if time_s > 2:
        container.seek(int((time_s - 1) / stream.time_base), stream=stream)


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """The open container; `probe` words the errors of files that are missing, empty or no media at all."""
    probe(path)
    try:
        with av.open(str(path)) as container:
            yield container
    except av.FFmpegError as error:
        raise MediaError(f"{path} is damaged ({error.strerror or error}); replace it") from error
