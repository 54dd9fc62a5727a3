"""The procedural renderer: what follows from a seed, and what its masks, boxes and mouths promise."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lcp_bench.data.synthetic.clip import SPLITS, clip_id, make_clip, split_of
from lcp_bench.data.synthetic.frames import HIGH, LOW, PARAMETERS, random_frames
from lcp_bench.data.synthetic.motion import EMOTIONS, draw_motion, smooth_noise
from lcp_bench.data.synthetic.people import Person, draw_person
from lcp_bench.data.synthetic.render import Rendered, render
from lcp_bench.data.synthetic.speech import PHONEMES, TABLE, VISEMES, make_speech
from lcp_bench.data.synthetic.streams import generator
from lcp_bench.errors import DatasetError
from metrics.mfcc import mfcc

RELAXED = {"mouth": (0.0, 0.4, 0.0, 0.0), "expression": (0.0,) * 5, "pose": (0.0,) * 5, "gaze": (0.0, 0.0)}
GREY = np.full((64, 64, 3), 0.5, dtype=np.float32)
REFERENCE = Path(__file__).parents[1] / "data" / "synthetic" / "reference.npz"


def drawn(person: int = 0, **changes: tuple[float, ...]) -> Rendered:
    """One frame of a person at rest, with some parameters changed."""
    given = {name: np.array([changes.get(name, value)], dtype=np.float32) for name, value in RELAXED.items()}
    return render(draw_person(1, person), background=GREY, **given)


def same(first: Any, second: Any) -> bool:
    """Whether two dataclasses of arrays are equal."""
    return all(np.array_equal(getattr(first, each.name), getattr(second, each.name)) for each in fields(first))


def test_the_same_numbers_give_the_same_clip_and_others_another() -> None:
    first, again = (make_clip("synth_hdtf", None, 3, 0, frames=20) for _ in range(2))
    assert (
        same(first.rendered, again.rendered) and same(first.speech, again.speech) and same(first.motion, again.motion)
    )
    for other in (
        make_clip("synth_hdtf", None, 3, 1, frames=20),
        make_clip("synth_hdtf", None, 4, 0, frames=20),
        make_clip("synth_hdtf", 7, 3, 0, frames=20),
    ):
        assert not np.array_equal(first.waveform, other.waveform)
        assert not np.array_equal(first.frames, other.frames)
    assert make_clip("synth_hdtf", None, 3, 1, frames=20).person == first.person


def test_streams_are_independent() -> None:
    """Drawing more from one must not move another, or old clips would change with every new parameter."""
    numbers = [generator(1, stream, 5, 0).integers(2**62) for stream in range(1, 6)]
    assert len(set(numbers)) == 5
    assert generator(1, 2, 5, 1).integers(2**62) not in numbers


def test_reroll_keeps_all_but_the_motion() -> None:
    first, other = (make_clip("synth_mead", None, 235, 0, frames=25, reroll=reroll) for reroll in (0, 1))
    assert first.person == other.person and same(first.speech, other.speech) and first.emotion == other.emotion
    assert np.array_equal(first.background, other.background) and first.id == other.id == "m_235_0"
    assert np.abs(first.motion.pose - other.motion.pose).max() > 0.01
    assert not np.array_equal(first.frames, other.frames)


def test_nobody_is_in_two_splits() -> None:
    people = [person for split in SPLITS.values() for person in split]
    assert people == list(range(264))
    assert (split_of(0), split_of(200), split_of(263)) == ("train", "validation", "test")
    looks = [draw_person(1, person) for person in people]
    assert len(set(looks)) == len({(look.skin, look.hair, look.pitch_hz) for look in looks}) == 264
    with pytest.raises(DatasetError, match="0..263, got 264"):
        split_of(264)


def test_families_differ_as_they_say() -> None:
    hdtf = [make_clip("synth_hdtf", None, person, 0, size=16) for person in range(232, 236)]
    mead = [make_clip("synth_mead", None, person, 0, size=16) for person in range(232, 240)]
    assert {clip.emotion for clip in hdtf} == {"neutral"}
    assert {clip.emotion for clip in mead} == set(EMOTIONS)
    assert all(100 <= len(clip.frames) <= 250 for clip in hdtf)
    assert all(50 <= len(clip.frames) <= 100 for clip in mead)
    turns = [np.mean([np.abs(clip.motion.pose[:, 0]).mean() for clip in clips]) for clips in (hdtf, mead)]
    assert turns[0] > 2 * turns[1]
    assert np.array_equal(mead[0].background, mead[1].background)
    assert not np.array_equal(hdtf[0].background, hdtf[1].background)
    assert clip_id("synth_hdtf", 232, 0) == hdtf[0].id == "h_232_0"


@pytest.mark.parametrize("family", ["synth_hdtf", "synth_mead"])
@pytest.mark.parametrize("moving", [False, True])
def test_outside_of_the_mask_there_is_only_background(family: str, moving: bool) -> None:
    shares = []
    for person in (0, 201, 240, 250):
        clip = make_clip(family, None, person, 2, frames=18, moving_background=moving)
        truth = np.broadcast_to(np.rint(clip.background * 255), clip.frames.shape)
        outside = ~clip.rendered.masks
        assert np.abs(clip.frames.astype(float) - truth)[outside].max() <= 1
        assert np.abs(clip.frames.astype(float) - truth)[clip.rendered.masks].mean() > 20
        shares.append(clip.rendered.masks.mean())
        assert (clip.background.ndim == 4) is moving
    assert all(0.3 < share < 0.5 for share in shares)


def test_a_moving_background_moves() -> None:
    for family in ("synth_hdtf", "synth_mead"):
        clip = make_clip(family, None, 240, 0, frames=12, moving_background=True)
        assert np.abs(clip.background[11] - clip.background[0]).mean() > 0.003


def test_sound_has_the_length_of_the_video() -> None:
    for frames in (1, 7, 50):
        take = make_speech(draw_person(1, 0), 1, 0, 0, frames)
        assert take.waveform.shape == (frames * 640,) and take.waveform.dtype == np.int16
        assert take.mouth.shape == (frames, 4) and take.phonemes.shape == take.visemes.shape == (frames,)
    clip = make_clip("synth_mead", None, 240, 0, size=16)
    assert clip.waveform.size == len(clip.frames) * 640
    assert clip.mouth.min() >= 0 and clip.mouth.max() <= 1
    assert 1000 < np.abs(clip.waveform.astype(int)).max() < 32767


def test_the_mouth_leads_the_sound_by_one_frame() -> None:
    frames, scores = 150, {}
    takes = [make_speech(draw_person(1, person), 1, person, 0, frames) for person in range(6)]
    for lead in range(-3, 5):
        rows = []
        for take in takes:
            loud = np.sqrt(np.mean(np.square(take.waveform.reshape(frames, 640) / 32768), axis=1))
            rows.append(np.corrcoef(take.mouth[5:-5, 0], loud[5 + lead : frames - 5 + lead])[0, 1])
        scores[lead] = np.mean(rows)
    assert max(scores, key=lambda lead: scores[lead]) == 1
    assert scores[1] > 0.65 and scores[1] > scores[0] + 0.1 and scores[1] > scores[2] + 0.1


def test_lips_close_for_bilabials() -> None:
    take = make_speech(draw_person(1, 1), 1, 1, 0, 750)
    closed = np.isin(take.visemes[1:], [VISEMES.index("m b p")])
    vowels = np.isin(take.visemes[1:], [VISEMES.index("aa ae")])
    opening = take.mouth[:-1, 0]  # the mouth is one frame ahead
    assert opening[closed].mean() < 0.25 < 0.6 < opening[vowels].mean()
    assert set(take.phonemes) == set(range(len(PHONEMES))) and len(TABLE) == 21


def sound_features(waveform: Any) -> Any:
    """MFCC of a frame and its two neighbours on each side, (frames, 260)."""
    frames = waveform.size // 640
    rows = np.pad(mfcc(waveform), ((0, 1), (0, 0)), mode="edge")[: 4 * frames].reshape(frames, 52)
    padded = np.pad(rows, ((2, 2), (0, 0)), mode="edge")
    return np.concatenate([padded[shift : shift + frames] for shift in range(5)], axis=1)


def test_opening_can_be_read_from_the_sound_of_new_people_only_if_it_is_theirs() -> None:
    def rows(people: range) -> tuple[Any, Any]:
        takes = [make_speech(draw_person(1, person), 1, person, 0, 100) for person in people]
        return [sound_features(take.waveform) for take in takes], [take.mouth[:, 0] for take in takes]

    known, opening = rows(range(32))
    stacked = np.concatenate(known)
    mean, spread = stacked.mean(axis=0), stacked.std(axis=0)
    design = np.column_stack([(stacked - mean) / spread, np.ones(len(stacked))])
    weights = np.linalg.solve(design.T @ design + 10 * np.eye(design.shape[1]), design.T @ np.concatenate(opening))
    new, truth = rows(range(232, 244))

    def explained(features: Any) -> float:
        predicted = ((np.concatenate(features) - mean) / spread) @ weights[:-1] + weights[-1]
        wanted = np.concatenate(truth)
        return float(1 - np.square(wanted - predicted).sum() / np.square(wanted - wanted.mean()).sum())

    assert explained(new) > 0.8
    assert explained(new[1:] + new[:1]) < 0.1


def box_size(rendered: Rendered) -> tuple[float, float]:
    x0, y0, x1, y1 = rendered.mouth_box[0]
    return float(x1 - x0), float(y1 - y0)


def test_the_mouth_opens_spreads_and_rounds() -> None:
    rest, wide = box_size(drawn()), box_size(drawn(mouth=(0.2, 1.0, 0.0, 0.0)))
    opened, rounded = box_size(drawn(mouth=(1.0, 0.4, 0.0, 0.0))), box_size(drawn(mouth=(0.3, 0.1, 1.0, 0.0)))
    assert 10 <= rest[0] <= 14
    assert opened[1] >= rest[1] + 5
    assert wide[0] >= rest[0] + 2 and rounded[0] <= rest[0] - 4
    bite, free = drawn(mouth=(0.1, 0.4, 0.0, 1.0)), drawn(mouth=(0.1, 0.4, 0.0, 0.0))
    assert (bite.frames.astype(int) - free.frames).max() > 40


def test_eyes_blink_and_brows_rise() -> None:
    def eye(**changes: tuple[float, ...]) -> float:
        result = drawn(10, **changes)
        x, y = result.landmarks5[0, 0].astype(int)
        return float(result.frames[0, y - 2 : y + 3, x - 3 : x + 4].max(axis=-1).max())

    assert eye() > 210
    assert eye(expression=(0, 0, 0, 0, 1)) < 170
    up, down = drawn(expression=(0, 1, 0, 0, 0)), drawn(expression=(0, -1, 0, 0, 0))
    assert np.abs(up.frames.astype(int) - down.frames)[0, 14:26].max() > 60


def test_the_head_turns_nods_tilts_and_moves() -> None:
    rest = drawn().landmarks5[0]
    turned, nodded = drawn(pose=(0.4, 0, 0, 0, 0)).landmarks5[0], drawn(pose=(0, 0.3, 0, 0, 0)).landmarks5[0]
    tilted, moved = drawn(pose=(0, 0, 0.2, 0, 0)).landmarks5[0], drawn(pose=(0, 0, 0, 0.1, 0)).landmarks5[0]
    moves = turned[:, 0] - rest[:, 0]
    assert moves.min() > 1 and moves.argmax() == 2 and moves[2] > 6  # the nose stands out
    assert nodded[2, 1] > rest[2, 1] + 2
    assert tilted[1, 1] > rest[1, 1] + 1 and tilted[0, 1] < rest[0, 1] - 1
    np.testing.assert_allclose(moved - rest, np.tile([3.2, 0], (5, 1)), atol=1e-4)


def test_boxes_and_landmarks_lie_where_they_belong() -> None:
    clip = make_clip("synth_hdtf", None, 233, 0, frames=40)
    truth = clip.rendered
    for boxes, masks in ((truth.mouth_box, truth.lip_masks), (truth.face_boxes, truth.masks)):
        assert (boxes[:, 2:] > boxes[:, :2]).all() and boxes.min() >= 0 and boxes.max() <= 64
        assert masks.any(axis=(1, 2)).all()
    inside = (truth.landmarks5 > truth.face_boxes[:, None, :2]) & (truth.landmarks5 < truth.face_boxes[:, None, 2:])
    assert inside.all()
    for frame in range(40):
        rows, columns = np.nonzero(truth.lip_masks[frame])
        box = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
        assert tuple(truth.mouth_box[frame]) == box
    assert np.array_equal(truth.face_box, truth.face_boxes[0])
    assert not (truth.lip_masks & ~truth.masks).any()


def test_smooth_noise_is_as_strong_at_the_ends_as_in_the_middle() -> None:
    noise = smooth_noise(np.random.default_rng(0), 40, 4000, 0.7)
    spread = noise.std(axis=1)
    assert spread.min() > 0.9 and spread.max() < 1.1
    neighbours = np.mean(noise[1:] * noise[:-1])
    assert neighbours > 0.97


def test_emotions_grow_with_their_level() -> None:
    mouth = np.zeros((50, 4), dtype=np.float32)
    for emotion in set(EMOTIONS) - {"neutral"}:
        sizes = [
            np.abs(draw_motion(2, 0, 0, mouth, "synth_mead", emotion, level).expression[:, :4].mean(axis=0)).sum()
            for level in (1, 3)
        ]
        assert sizes[1] > sizes[0] + 0.3, emotion


def test_batches_do_not_show() -> None:
    """Frame 20 is the same picture whether painted in the second batch or alone."""
    clip = make_clip("synth_hdtf", None, 5, 0, frames=24)
    chosen = slice(20, 21)
    alone = render(
        clip.person,
        clip.mouth[chosen],
        clip.motion.expression[chosen],
        clip.motion.pose[chosen],
        clip.motion.gaze[chosen],
        clip.background,
    )
    assert np.abs(alone.frames[0].astype(int) - clip.frames[20]).max() <= 1


def test_random_frames() -> None:
    frames, values = random_frames(12345, 40)
    again, _ = random_frames(12345, 40)
    assert np.array_equal(frames, again)
    assert frames.shape == (40, 64, 64, 3) and values.shape == (40, len(PARAMETERS)) == (40, 14)
    assert (values >= LOW - 1e-6).all() and (values <= HIGH + 1e-6).all()
    assert values[:, 4].std() > 0.4
    assert not np.array_equal(random_frames(12346, 2)[0], frames[:2])


@pytest.mark.parametrize(
    "arguments",
    [
        {"family": "synth"},
        {"person": -1},
        {"frames": 0},
        {"size": 8},
        {"emotion": "bored"},
        {"level": 4},
        {"root": 2**32},
    ],
)
def test_what_cannot_be_made_is_refused(arguments: dict[str, Any]) -> None:
    usual = {"family": "synth_mead", "root": None, "person": 0, "take": 0, "frames": 2}
    with pytest.raises(DatasetError, match="expected"):
        make_clip(**{**usual, **arguments})


def test_shapes_that_do_not_fit_are_refused() -> None:
    person: Person = draw_person(1, 0)
    parts = [np.zeros((3, count), dtype=np.float32) for count in (4, 5, 5, 2)]
    with pytest.raises(DatasetError, match=r"\(3, 5\)"):
        render(person, *parts[:2], np.zeros((3, 6), dtype=np.float32), parts[3], GREY)
    with pytest.raises(DatasetError, match="background"):
        render(person, *parts, np.zeros((2, 64, 64, 3), dtype=np.float32))


def reference_arrays() -> dict[str, Any]:
    """What the committed file holds: frames 0 and 11 of two clips, their mouths, and a piece of their sound."""
    arrays = {}
    for family, person in (("synth_hdtf", 0), ("synth_mead", 237)):
        clip = make_clip(family, None, person, 0, frames=12)
        arrays |= {
            f"{family}_frames": clip.frames[[0, 11]],
            f"{family}_mouth": clip.mouth,
            f"{family}_sound": clip.waveform[4480:6400],
        }
    return arrays


def test_clips_are_still_drawn_as_they_were() -> None:
    """Equal bytes are promised on one platform only; one grey level and two steps of the sound everywhere."""
    tolerances = {"frames": 1, "mouth": 1e-5, "sound": 2}
    with np.load(REFERENCE, allow_pickle=False) as stored:
        for name, now in reference_arrays().items():
            assert now.shape == stored[name].shape and now.dtype == stored[name].dtype
            difference = np.abs(now.astype(np.float64) - stored[name]).max()
            assert difference <= tolerances[name.rpartition("_")[2]], name
