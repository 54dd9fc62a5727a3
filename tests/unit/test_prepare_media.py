"""Pictures and sound are taken by time, and stay together through a cut."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from lcp_bench.data.prepare_crop import FaceWindow, ListedWindow, around, cropped
from lcp_bench.data.prepare_cut import Source, clip_path, cut, sound_path
from lcp_bench.data.prepare_media import pictures_at, sound_at
from lcp_bench.errors import ConfigError
from lcp_bench.video import MediaError, VideoInfo, probe, read_audio, read_video, write_video
from prepare_sources import click, map_picture, video

WHOLE = ListedWindow(0, 0, 64, 64)


KINDS = [(25, 16000, "mp4"), (Fraction(30000, 1001), 44100, "mp4"), (24, 48000, "mkv"), (60, 22050, "mp4")]
STARTS_S = (0.0, 1.5, 3.0)


@pytest.mark.parametrize(
    ("fps", "rate", "ending", "start_s"),
    [
        pytest.param(*kind, start, marks=() if number % 3 == place else pytest.mark.slow)
        for number, kind in enumerate(KINDS)
        for place, start in enumerate(STARTS_S)
    ],
)
def test_flash_and_click_stay_together(
    fps: Fraction | int, rate: int, ending: str, start_s: float, tmp_path: Path
) -> None:
    at_s = start_s + 0.6
    made = video(tmp_path / "made.mp4", 5, size=(64, 64), fps=fps, rate=rate, sound=click(5, at_s, rate), flash_s=at_s)
    source = tmp_path / f"source.{ending}"
    made.rename(source) if ending == "mp4" else remux(made, source)
    cut(tmp_path, Source("c", "p", (), "s", source, start_s=start_s, seconds=1.2, crop=WHOLE), 64)
    info = probe(clip_path(tmp_path, "c"))
    assert (info.width, info.height, info.fps, info.frames) == (64, 64, 25, 30)
    assert (info.audio_rate_hz, info.audio_channels) == (16000, 1)
    assert info.audio_seconds == pytest.approx(1.2, abs=1e-3)
    brightness = read_video(clip_path(tmp_path, "c")).mean(axis=(1, 2, 3))
    loudest = np.abs(read_audio(clip_path(tmp_path, "c"))).argmax()
    flashed = np.flatnonzero(brightness > 200)
    # A source picture lasts 1/fps from its stamp; ours shows the nearest stamp, so a 60 fps flash may fall between two.
    if fps != 60:
        assert flashed.size >= 1
        assert abs(flashed[0] / 25 - loudest / 16000) <= 0.5 / float(fps) + 0.5 / 25
    assert loudest / 16000 == pytest.approx(0.6, abs=0.004)
    exact = read_audio(sound_path(tmp_path, "c"))
    assert exact.size == 30 * 640 and np.abs(exact).argmax() / 16000 == pytest.approx(0.6, abs=0.004)


def remux(source: Path, target: Path) -> None:
    """The same streams in a container with millisecond time stamps."""
    with av.open(str(source)) as read, av.open(str(target), "w") as write:
        streams = {each.index: write.add_stream_from_template(each) for each in read.streams}
        for packet in read.demux():
            if packet.dts is not None:
                packet.stream = streams[packet.stream.index]
                write.mux(packet)


def test_pictures_are_the_nearest_in_time(tmp_path: Path) -> None:
    pictures = np.repeat(np.arange(0, 240, 2, dtype=np.uint8), 64 * 64 * 3).reshape(-1, 64, 64, 3)
    write_video(tmp_path / "ramp.mp4", pictures, 30)
    times = [index / 25 for index in range(50, 90)]
    got = [int(picture.mean().round()) for picture in pictures_at(tmp_path / "ramp.mp4", times)]
    nearest = [2 * round(time * 30 - 1e-9) for time in times]
    assert np.abs(np.subtract(got, nearest)).max() <= 1  # neighbours are 2 apart


def test_sound_is_exact_in_length_and_place(tmp_path: Path) -> None:
    rate = 48000
    video(tmp_path / "a.mp4", 4, size=(64, 64), rate=rate, sound=click(4, 2.5, rate))
    for start in (1.5, 1.7, 2.2, 2.49):
        got = sound_at(tmp_path / "a.mp4", start, 1.04)
        assert got.shape == (16640,) and got.dtype == np.float32
        assert abs(int(np.abs(got).argmax()) - round((2.5 - start) * 16000)) <= 24


def test_stereo_is_averaged(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "two.wav"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=16000, layout="stereo")
        planes = np.zeros((1, 2 * 16000), np.int16)
        planes[0, 0::2], planes[0, 1::2] = 16000, 8000
        frame = av.AudioFrame.from_ndarray(planes, format="s16", layout="stereo")
        frame.sample_rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    got = sound_at(tmp_path / "two.wav", 0.0, 1.0)
    assert got == pytest.approx(np.full(16000, 12000 / 32768), abs=1e-3)


def test_what_a_source_lacks_is_said(tmp_path: Path) -> None:
    short = video(tmp_path / "short.mp4", 2, size=(64, 64))
    with pytest.raises(MediaError, match=r"short\.mp4: pictures end at 2\.00 s, needed up to 3\.00 s"):
        list(pictures_at(short, [1.0, 3.0]))
    with pytest.raises(MediaError, match=r"sound goes from .* to 2\.0\d s, needed from 1\.50 to 2\.50"):
        sound_at(short, 1.5, 1.0)
    mute = video(tmp_path / "mute.mp4", 1, size=(64, 64), sound=np.zeros(44100, np.float32))
    with pytest.raises(MediaError, match="silent"):
        sound_at(mute, 0.0, 0.5)
    quiet = video(tmp_path / "quiet.mp4", 1, size=(64, 64), silent=True)
    with pytest.raises(MediaError, match="no sound stream"):
        cut(tmp_path, Source("q", "p", (), "q", quiet, seconds=0.4, crop=WHOLE), 64)


def test_a_hole_in_the_pictures_is_not_filled(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "hole.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        for index in (*range(20), *range(60, 80)):
            frame = av.VideoFrame.from_ndarray(map_picture(64, 64), format="rgb24")
            frame.pts = index
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    assert len(list(pictures_at(tmp_path / "hole.mp4", [0.1, 2.5]))) == 2
    with pytest.raises(MediaError, match=r"no picture within 0\.2 s of 1\.60 s"):
        list(pictures_at(tmp_path / "hole.mp4", [0.1, 1.6, 2.5]))


def test_untagged_hd_is_read_as_bt709(tmp_path: Path) -> None:
    colour = np.full((720, 64, 3), (200, 60, 30), np.uint8)
    with av.open(str(tmp_path / "hd.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt, stream.options = 64, 720, "yuv420p", {"crf": "5"}
        frame = av.VideoFrame.from_ndarray(colour, format="rgb24").reformat(format="yuv420p", dst_colorspace=1)
        frame.pts = 0
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    picture = next(iter(pictures_at(tmp_path / "hd.mp4", [0.0])))
    assert np.abs(picture[360, 32].astype(int) - (200, 60, 30)).max() <= 4


def test_listed_window_is_scaled_and_must_fit(tmp_path: Path) -> None:
    window = ListedWindow(532, 0, 958, 1080)
    assert window.square(tmp_path, VideoInfo(width=1920, height=1080), []) == (532, 0, 958)
    assert window.square(tmp_path, VideoInfo(width=1280, height=720), []) == (355, 0, 639)
    with pytest.raises(MediaError, match="960x1080.*does not fit"):
        window.square(tmp_path, VideoInfo(width=960, height=1080), [])
    part = cropped(map_picture(1920, 1080), (532, 0, 958), 512)
    assert part.shape == (512, 512, 3)
    assert part[0, 0, 0] == pytest.approx(532 / 1919 * 255, abs=1) and part[-1, -1, 1] == pytest.approx(226, abs=1)


def test_square_around_faces_stays_inside() -> None:
    boxes = np.array([[100, 50, 160, 110], [110, 52, 170, 112], [108, 51, 168, 111], [600, 300, 660, 360]], float)
    assert around(boxes, 2.0, 640, 360) == (65, 11, 140)
    assert around(boxes[:3] - [95, 45, 95, 45], 2.0, 640, 360)[:2] == (0, 0)
    assert around(boxes, 10.0, 640, 360)[2] == 360
    with pytest.raises(ConfigError, match="cascade or insightface"):
        FaceWindow(2.0, "manifest")
