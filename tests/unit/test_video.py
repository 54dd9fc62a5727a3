"""Video and sound: what is written comes back, repeats in bytes, and never stands half written."""

from __future__ import annotations

import wave
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from lcp_bench.video import MediaError, probe, read_audio, read_video, write_video

RATE = 16000


def tone(seconds: float, rate: int = RATE, hz: float = 440.0) -> NDArray[np.float32]:
    return (0.5 * np.sin(2 * np.pi * hz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def write_wav(path: Path, channels: list[NDArray[np.float32]], rate: int) -> Path:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(len(channels))
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((np.stack(channels, axis=1) * 32767).astype("<i2").tobytes())
    return path


def patches(count: int) -> NDArray[np.uint8]:
    """Four colour fields and a brightness that rises from frame to frame."""
    frame = np.zeros((48, 64, 3), dtype=np.uint8)
    frame[:24, :32], frame[:24, 32:], frame[24:, :32], frame[24:, 32:] = (
        (200, 30, 30),
        (30, 180, 40),
        (40, 40, 190),
        120,
    )
    return np.stack([np.clip(frame.astype(int) + 4 * index, 0, 255).astype(np.uint8) for index in range(count)])


def pitch_hz(sound: NDArray[np.float32], rate: int = RATE) -> float:
    return float(np.abs(np.fft.rfft(sound)).argmax() * rate / sound.size)


def test_frames_and_colours_survive(tmp_path: Path) -> None:
    frames = patches(7)
    assert write_video(tmp_path / "a.mp4", iter(frames), 25, tone(5)) == 7
    back = read_video(tmp_path / "a.mp4")
    assert back.shape == frames.shape and back.dtype == np.uint8
    centres = (slice(None), [12, 12, 36, 36], [16, 48, 16, 48])
    assert np.abs(back[centres].astype(int) - frames[centres]).max() <= 6
    assert read_video(tmp_path / "a.mp4", max_frames=2).shape[0] == 2


def test_header_tells_codec_rate_and_cut_sound(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", patches(10), 25, tone(5))
    info = probe(tmp_path / "a.mp4")
    assert (info.width, info.height, info.frames, info.fps) == (64, 48, 10, 25.0)
    assert info.has_audio and info.audio_rate_hz == RATE
    assert info.audio_seconds == pytest.approx(0.4, abs=0.002)
    with av.open(str(tmp_path / "a.mp4")) as container:
        names = [stream.codec_context.name for stream in container.streams]
    assert names == ["h264", "aac"]


def test_sound_comes_back_in_place(tmp_path: Path) -> None:
    sound = np.concatenate([np.zeros(8000, np.float32), tone(0.5)])
    write_video(tmp_path / "a.mp4", patches(25), 25, sound)
    back = read_audio(tmp_path / "a.mp4")
    assert back.size == RATE
    assert np.abs(back[:7000]).max() < 0.02
    assert np.abs(back[9000:15000]).max() > 0.3
    assert pitch_hz(back[8000:16000]) == pytest.approx(440, abs=4)


def test_padding_of_the_encoder_is_not_sound(tmp_path: Path) -> None:
    """10 frames at 25 fps are 6,400 samples; AAC stores whole blocks of 1,024, and the file says where sound ends."""
    path = tmp_path / "clip.mp4"
    write_video(path, patches(10), 25, tone(2.0))
    assert read_audio(path).size == 6400


def test_short_sound_and_seconds_limit(tmp_path: Path) -> None:
    write_video(tmp_path / "short.mp4", patches(25), 25, tone(0.2))
    write_video(tmp_path / "limit.mp4", patches(25), 25, tone(5), seconds=0.4)
    assert probe(tmp_path / "short.mp4").audio_seconds == pytest.approx(0.2, abs=0.01)
    assert probe(tmp_path / "limit.mp4").audio_seconds == pytest.approx(0.4, abs=0.01)


def test_same_input_same_bytes(tmp_path: Path) -> None:
    source = write_wav(tmp_path / "s.wav", [tone(1), tone(1, hz=300)], RATE)
    frames = np.repeat(np.repeat(patches(12), 8, axis=1), 8, axis=2)  # large enough for x264 to want more threads
    for name in ("a.mp4", "b.mp4"):
        write_video(tmp_path / name, frames, 25, source)
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()
    assert b" threads=1 " in (tmp_path / "a.mp4").read_bytes()  # x264 notes its settings in the stream


def test_file_sound_keeps_rate_and_channels(tmp_path: Path) -> None:
    source = write_wav(tmp_path / "s.wav", [tone(1, 44100), tone(1, 44100)], 44100)
    write_video(tmp_path / "a.mp4", patches(10), 25, source)
    info = probe(tmp_path / "a.mp4")
    assert (info.audio_rate_hz, info.audio_channels) == (44100, 2)


def test_eight_khz_stereo_becomes_16_khz_mono(tmp_path: Path) -> None:
    left, right = tone(1, 8000, 440), np.zeros(8000, np.float32)
    back = read_audio(write_wav(tmp_path / "s.wav", [left, right], 8000))
    assert back.dtype == np.float32 and back.ndim == 1 and abs(back.size - RATE) <= 40
    assert pitch_hz(back) == pytest.approx(440, abs=2)
    assert np.abs(back).max() == pytest.approx(0.25, abs=0.02)  # the mean of 0.5 and silence


def test_16_khz_mono_is_read_exactly(tmp_path: Path) -> None:
    values = np.array([0, 1, -1, 32767, -32768, 1234] * 300, dtype="<i2")
    with wave.open(str(tmp_path / "s.wav"), "wb") as file:
        file.setparams((1, 2, RATE, 0, "NONE", ""))
        file.writeframes(values.tobytes())
    np.testing.assert_array_equal(read_audio(tmp_path / "s.wav"), values.astype(np.float32) / 32768)


def test_a_failing_frame_leaves_nothing(tmp_path: Path) -> None:
    def frames() -> Iterator[NDArray[np.uint8]]:
        yield from patches(120)  # enough for the encoder to have written something
        raise RuntimeError("denoising failed")

    with pytest.raises(RuntimeError, match="denoising failed"):
        write_video(tmp_path / "a.mp4", frames(), 25, tone(1))
    assert list(tmp_path.iterdir()) == []


def test_a_failure_keeps_the_older_file(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", patches(3), 25)
    before = (tmp_path / "a.mp4").read_bytes()
    with pytest.raises(MediaError, match="at least 1 frame"):
        write_video(tmp_path / "a.mp4", [], 25)
    assert (tmp_path / "a.mp4").read_bytes() == before


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        (np.zeros((2, 47, 64, 3), np.uint8), "even picture size"),
        (np.zeros((2, 48, 64), np.uint8), "height, width, 3"),
        (np.zeros((2, 48, 64, 3), np.float32), "expected uint8"),
    ],
)
def test_wrong_frames_are_refused(tmp_path: Path, frames: NDArray[np.uint8], message: str) -> None:
    with pytest.raises(MediaError, match=message):
        write_video(tmp_path / "a.mp4", frames, 25)


@pytest.mark.parametrize(
    ("content", "message"), [(None, "found none"), (b"", "0 bytes"), (b"hello\n" * 50, "cannot be decoded|no sound")]
)
def test_unusable_sound_is_named(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "s.wav"
    if content is not None:
        path.write_bytes(content)
    for use in (read_audio, probe, read_video):
        with pytest.raises(MediaError, match=message) as error:
            use(path)
        assert "s.wav" in str(error.value)


def test_silent_video_has_no_sound(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", patches(3), 25)
    assert not probe(tmp_path / "a.mp4").has_audio
    with pytest.raises(MediaError, match="no sound stream"):
        read_audio(tmp_path / "a.mp4")


def test_real_talking_clip(shared_dir: Path) -> None:
    path = shared_dir / "data/real/clips/vox_03.mp4"
    info = probe(path)
    assert (info.width, info.height, info.frames, info.audio_rate_hz) == (256, 256, 110, 16000)
    sound = read_audio(path)
    assert sound.size == round(4.4 * RATE)
    assert read_video(path, max_frames=3).shape == (3, 256, 256, 3)
