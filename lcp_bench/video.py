"""Reading and writing video and sound; the only module that codes video.

Everything goes through PyAV (bundled FFmpeg), so no `ffmpeg` program is needed. Files are written with one encoder
thread and without time stamps of their own: the same frames and sound give the same bytes on the same machine.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, Self, cast

import av
import numpy as np
from numpy.typing import NDArray

from lcp_bench.atomic import replacing
from lcp_bench.errors import LcpBenchError

AAC_FRAME = 1024
ENCODER_PADDING_S = 0.3
"""AAC ends in up to two blocks of padding, which the container's duration leaves out; at 8 kHz that is 0.26 s. More
sound than that beyond the stated duration means that the duration is wrong, and nothing is cut."""
AAC_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)


ENCODERS = ("libx264", "aac")


class MediaError(LcpBenchError):
    """A sound or video file cannot be read or written; whoever knows the clip turns it into a `ClipError`."""


@dataclass(frozen=True, slots=True)
class VideoInfo:
    """What a media file holds; the video or the audio fields are None where that stream is absent."""

    width: int | None = None
    height: int | None = None
    fps: float | None = None
    frames: int | None = None
    seconds: float | None = None
    audio_rate_hz: int | None = None
    audio_channels: int | None = None
    audio_seconds: float | None = None

    @property
    def has_video(self) -> bool:
        """Whether the file has a picture stream."""
        return self.width is not None

    @property
    def has_audio(self) -> bool:
        """Whether the file has a sound stream."""
        return self.audio_rate_hz is not None


@dataclass(frozen=True, slots=True)
class _Track:
    """Sound to be muxed: float32 (channels, samples) in [-1, 1] at a rate that AAC knows."""

    samples: NDArray[np.float32]
    rate: int


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """Open a media file for reading; every way in which it is unusable becomes a `MediaError` naming it."""
    if not path.is_file():
        raise MediaError(f"expected a media file at {path}, found none; check the path in the data set")
    if path.stat().st_size == 0:
        raise MediaError(f"{path} is empty (0 bytes), expected sound or video; replace the file")
    try:
        with av.open(str(path)) as container:
            yield container
    except av.FFmpegError as error:
        raise MediaError(
            f"{path} cannot be decoded as sound or video ({error.strerror or error}); re-encode or replace the file"
        ) from error


def probe(path: str | Path) -> VideoInfo:
    """Describe a media file from its headers, without decoding it.

    Args:
        path: Any file that FFmpeg reads.

    Returns:
        Sizes in pixels, `fps` in frames per second, durations in seconds; `frames` is the container's count, or
        duration times rate where the container has none.

    Raises:
        MediaError: The file is missing, empty, unreadable, or holds neither sound nor video.
    """
    path = Path(path)
    with _opened(path) as container:
        video = container.streams.video[0] if container.streams.video else None
        audio = container.streams.audio[0] if container.streams.audio else None
        if video is None and audio is None:
            raise MediaError(f"{path} holds neither sound nor video; replace the file")
        facts: dict[str, Any] = {}
        if video is not None:
            fps = float(video.average_rate or video.base_rate or 0)
            seconds = _stream_seconds(video, container)
            frames = video.frames or (round(seconds * fps) if seconds is not None else None)
            facts = {"width": video.width, "height": video.height, "fps": fps, "frames": frames, "seconds": seconds}
        if audio is not None:
            facts |= {
                "audio_rate_hz": audio.rate,
                "audio_channels": audio.channels,
                "audio_seconds": _stream_seconds(audio, container),
            }
        return VideoInfo(**facts)


def _stream_seconds(stream: Any, container: Any) -> float | None:
    if stream.duration is not None:
        return float(stream.duration * stream.time_base)
    return float(container.duration / av.time_base) if container.duration is not None else None


def read_video(path: str | Path, max_frames: int | None = None) -> NDArray[np.uint8]:
    """Decode the frames of a video.

    Args:
        path: Video file.
        max_frames: Stop after this many frames; None reads all of them.

    Returns:
        uint8 (frames, height, width, 3), RGB, 0..255.

    Raises:
        MediaError: No readable video stream, or not a single frame in it.
    """
    path = Path(path)
    frames: list[NDArray[np.uint8]] = []
    with _opened(path) as container:
        if not container.streams.video:
            raise MediaError(f"{path} has no video stream; give a file with pictures")
        for frame in container.decode(video=0):
            if max_frames is not None and len(frames) >= max_frames:
                break
            frames.append(frame.to_ndarray(format="rgb24"))
    if not frames:
        raise MediaError(f"{path} decodes to 0 frames, expected at least 1; the file is probably truncated")
    return np.stack(frames)


def read_audio(path: str | Path, sample_rate: int = 16000) -> NDArray[np.float32]:
    """Decode the first sound stream of any file to one channel at one rate.

    Channels are averaged; other rates are resampled by FFmpeg's swresample.

    Args:
        path: wav, mp3, flac, mp4 and so on.
        sample_rate: Rate of the result in Hz.

    Returns:
        float32 (samples,), in [-1, 1].

    Raises:
        MediaError: No readable sound stream.
    """
    # Averaged here: swresample mixes floats with 0.71 per channel, which clips loud stereo.
    return np.asarray(_read_sound(Path(path), sample_rate, keep_all=True).mean(axis=0), dtype=np.float32)


def _read_sound(path: Path, rate: int, *, keep_all: bool) -> NDArray[np.float32]:
    """Decode sound to float32 (channels, samples), with all of the file's channels or mixed to at most two."""
    parts: list[NDArray[np.float32]] = []
    with _opened(path) as container:
        if not container.streams.audio:
            raise MediaError(f"{path} has no sound stream; give a file with sound, or pair it with a speech file")
        stream = container.streams.audio[0]
        layout = stream.layout.name if keep_all or stream.channels <= 2 else "stereo"
        channels = stream.channels if keep_all else min(stream.channels, 2)
        resampler = av.AudioResampler(format="fltp", layout=layout, rate=rate)
        for frame in container.decode(stream):
            parts.extend(_planes(part) for part in resampler.resample(frame))
        parts.extend(_planes(part) for part in resampler.resample(None))
        stated_s = _stream_seconds(stream, container) if stream.duration is not None else None
    if not parts:
        return np.zeros((channels, 0), dtype=np.float32)
    samples = np.concatenate(parts, axis=1)
    if stated_s is not None and 0 < samples.shape[1] / rate - stated_s <= ENCODER_PADDING_S:
        samples = samples[:, : round(stated_s * rate)]
    if not np.isfinite(samples).all():
        raise MediaError(f"{path} holds samples that are not finite numbers; re-encode or replace the file")
    return np.asarray(np.clip(samples, -1.0, 1.0), dtype=np.float32)


def _planes(frame: av.AudioFrame) -> NDArray[np.float32]:
    return np.asarray(frame.to_ndarray(), dtype=np.float32)


class VideoWriter:
    """Writes h264 (crf 18, yuv420p) with AAC sound to an mp4 as the pictures come; a context manager.

    The file appears under its name when the context ends well, complete and in one step; otherwise nothing is left
    behind, and an older file of that name stays.

    Args:
        path: Target file; its folder is made when missing.
        fps: Frames per second.
        audio: Sound to mux: a file (its own rate and up to two channels are kept), a mono waveform (samples,) in
            [-1, 1], or None. It is cut to frames / fps seconds; shorter sound just ends earlier.
        seconds: Cut the sound to at most this many seconds as well.
        sample_rate: Rate in Hz of a waveform given as array.

    Attributes:
        target: The file.
        count: Frames written so far.

    Raises:
        MediaError: Unreadable sound; later no frames, pictures of odd, changing or wrong shape, or an encoder failure.
    """

    def __init__(
        self,
        path: str | Path,
        fps: float,
        audio: str | Path | NDArray[np.float32] | None = None,
        seconds: float | None = None,
        sample_rate: int = 16000,
    ) -> None:
        self.target, self._fps, self._seconds = Path(path), Fraction(fps).limit_denominator(1001), seconds
        self._track = _load_track(audio, sample_rate)
        self._video: Any = None
        self._sound: _SoundWriter | None = None
        self.count = 0

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            partial = stack.enter_context(replacing(self.target, durable=True))
            with self._told():
                self._container: Any = av.open(str(partial), "w", format="mp4")
            stack.push(self._end)
            self._ends = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ends.__exit__(kind, error, trace)

    def write(self, pictures: Iterable[NDArray[np.uint8]]) -> None:
        """Encode uint8 (height, width, 3) RGB pictures of even size and, behind each, the sound up to its end."""
        with self._told():
            for picture in pictures:
                self._encode(np.ascontiguousarray(picture))

    def _encode(self, picture: NDArray[np.uint8]) -> None:
        if self._video is None:
            self._video = _video_stream(self._container, picture, self._fps)
            if self._track is not None:
                self._sound = _SoundWriter(self._container, self._track, self._seconds)
        height, width = self._video.height, self._video.width
        if picture.shape != (height, width, 3) or picture.dtype != np.uint8:
            raise MediaError(
                f"frame {self.count}: expected uint8 ({height}, {width}, 3), got {picture.dtype} {picture.shape}"
            )
        frame = av.VideoFrame.from_ndarray(cast(Any, picture), format="rgb24")
        frame.pts = self.count
        self._container.mux(self._video.encode(frame))
        self.count += 1
        if self._sound is not None:
            self._sound.advance(self.count / self._fps)

    def _end(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            with self._told():
                self._finish()
        else:
            with suppress(av.FFmpegError, OSError):  # what ended the writing is told, not what follows from it
                self._container.close()

    def _finish(self) -> None:
        try:
            if self._video is None:
                raise MediaError("expected at least 1 frame to write, got 0; the clip decoded to nothing")
            self._container.mux(self._video.encode())
            if self._sound is not None:
                self._sound.finish(self.count / self._fps)
        finally:
            self._container.close()

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Name the file in errors of the encoder."""
        try:
            yield
        except av.FFmpegError as error:
            reason = error.strerror or error
            raise MediaError(f"cannot write {self.target}: {reason}; check free space and rights") from error


def write_video(
    path: str | Path,
    frames: Iterable[NDArray[np.uint8]],
    fps: float,
    audio: str | Path | NDArray[np.float32] | None = None,
    seconds: float | None = None,
    sample_rate: int = 16000,
) -> int:
    """Write all `frames`, an array (frames, height, width, 3) or an iterator, at once; see `VideoWriter`.

    Returns:
        The number of frames written.
    """
    with VideoWriter(path, fps, audio, seconds, sample_rate) as video:
        video.write(frames)
    return video.count


def _load_track(audio: str | Path | NDArray[np.float32] | None, sample_rate: int) -> _Track | None:
    if audio is None:
        return None
    if isinstance(audio, np.ndarray):
        if audio.ndim != 1:
            raise MediaError(f"expected a mono waveform (samples,), got shape {audio.shape}; mix the channels down")
        samples, rate = np.clip(audio, -1.0, 1.0).astype(np.float32)[None], sample_rate
        if rate not in AAC_RATES:
            raise MediaError(f"AAC cannot carry {rate} Hz; resample the waveform to one of {AAC_RATES}")
        return _Track(samples, rate)
    source = Path(audio)
    own = probe(source).audio_rate_hz
    if own is None:
        raise MediaError(f"{source} has no sound stream; give a file with sound")
    rate = own if own in AAC_RATES else 48000
    return _Track(_read_sound(source, rate, keep_all=False), rate)


def _video_stream(container: Any, picture: NDArray[np.uint8], fps: Fraction) -> Any:
    if picture.ndim != 3 or picture.shape[2] != 3:
        raise MediaError(f"expected frames of shape (height, width, 3), got {picture.shape}")
    height, width = picture.shape[:2]
    if height % 2 or width % 2:
        raise MediaError(f"yuv420p needs an even picture size, got {width}x{height}; choose an even image_size")
    stream = container.add_stream("libx264", rate=fps)
    stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
    # mbtree off: with it, equal frames gave different P and B packets now and then, and bytes must repeat
    stream.options = {"crf": "18", "preset": "veryfast", "mbtree": "0"}
    context = stream.codec_context
    context.thread_count = 1  # more threads change the bytes from run to run
    # swscale converts with the BT.601 matrix, limited range; the tags keep players from guessing BT.709 instead.
    (context.colorspace, context.color_range, context.color_primaries, context.color_trc) = 6, 1, 1, 1
    return stream


class _SoundWriter:
    """Feeds a track to an AAC stream in step with the pictures, so that both are interleaved in the file."""

    def __init__(self, container: Any, track: _Track, seconds: float | None) -> None:
        self._container, self._track = container, track
        self._limit = track.samples.shape[1]
        if seconds is not None:
            self._limit = min(self._limit, round(seconds * track.rate))
        self._layout = "mono" if track.samples.shape[0] == 1 else "stereo"
        self._stream = container.add_stream("aac", rate=track.rate, layout=self._layout)
        self._stream.codec_context.thread_count = 1
        self._position = 0

    def advance(self, until_s: Fraction) -> None:
        """Encode whole AAC frames that end at or before `until_s`."""
        end = min(self._limit, round(until_s * self._track.rate))
        while self._position + AAC_FRAME <= end:
            self._push(AAC_FRAME)

    def finish(self, until_s: Fraction) -> None:
        """Encode what is left up to `until_s` and flush the encoder."""
        self.advance(until_s)
        rest = min(self._limit, round(until_s * self._track.rate)) - self._position
        if rest > 0:
            self._push(rest)
        self._container.mux(self._stream.encode())

    def _push(self, size: int) -> None:
        chunk = np.ascontiguousarray(self._track.samples[:, self._position : self._position + size])
        frame = av.AudioFrame.from_ndarray(cast(Any, chunk), format="fltp", layout=self._layout)
        frame.sample_rate, frame.pts = self._track.rate, self._position
        frame.time_base = Fraction(1, self._track.rate)
        self._container.mux(self._stream.encode(frame))
        self._position += size


def encoder_library() -> str:
    """Name and versions of what encodes."""
    major = ".".join(str(part) for part in av.library_versions.get("libavcodec", ()))
    return f"PyAV {av.__version__}, libavcodec {major}"


def missing_encoders() -> list[str]:
    """Encoders that videos need and the FFmpeg behind PyAV lacks."""
    missing = []
    for name in ENCODERS:
        try:
            av.codec.Codec(name, "w")
        except ValueError:  # PyAV's UnknownCodecError
            missing.append(name)
    return missing
