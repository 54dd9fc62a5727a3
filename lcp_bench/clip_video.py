"""A clip's frames into its video while they are decoded: a long clip never lies in memory as pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lcp_bench.clip_runner import ClipRunner, GeneratedClip, PreparedClip
from lcp_bench.errors import ClipError, StoreError
from lcp_bench.measure.clock import Stopwatch
from lcp_bench.video import MediaError, VideoWriter


def generate_video(
    runner: ClipRunner,
    prepared: PreparedClip,
    path: Path,
    watch: Stopwatch,
    on_segment: Callable[[int, int], None] | None = None,
) -> GeneratedClip:
    """Generate a clip and write its video, with the clip's sound; the file appears when it is complete.

    Args:
        runner: Runner of the run's strategy.
        prepared: The clip.
        path: The video.
        watch: Gets the time of writing as its stage `write`; generation's stages do not hold it.
        on_segment: See `ClipRunner.generate`.

    Raises:
        ClipError: Its sound cannot be read or its pictures cannot be encoded (`write`), or generation's own.
        StoreError: The file cannot be written: the disk is full, for example.
    """
    clip = prepared.inputs.clip

    @contextmanager
    def writing() -> Iterator[None]:
        try:
            with watch.stage("write"):
                yield
        except MediaError as error:
            raise ClipError(str(error), clip=clip.id, stage="write") from error
        except OSError as error:
            reason = f"the video of clip {clip.id} cannot be written: {error}; free space and run again"
            raise StoreError(reason) from error

    def write(frames: NDArray[np.uint8]) -> None:
        with writing():
            video.write(frames)

    with ExitStack() as stack:
        with writing():
            video = stack.enter_context(VideoWriter(path, runner.config.model.fps, clip.audio))
        sample = runner.generate(prepared, on_segment, write)
        with writing():
            stack.close()
    return sample
