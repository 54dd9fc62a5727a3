"""How each component of `goldens/metrics` is computed with this project's `metrics` package."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cases import Case
from lcp_bench.models.weights.seeded import apply_seeded_v1
from metrics import align, detect, lipsync, parsing, pixels, resize, tracks
from metrics import mfcc as speech
from metrics.frechet import Statistics, frechet_distance, frechet_from_statistics, statistics
from metrics.nets.bisenet import BiSeNet
from metrics.nets.i3d import I3d
from metrics.nets.inception import FidInception
from metrics.nets.lpips import Lpips
from metrics.nets.recon import EXPRESSION, ReconNet
from metrics.nets.s3fd import S3fd, decode
from metrics.nets.syncnet import SyncNet

Outputs = dict[str, Any]


def seeded(case: Case, module: nn.Module) -> Any:
    """The module with the case's weights."""
    apply_seeded_v1(module.eval().requires_grad_(False), case.meta["weights"]["seed"])
    return module


def planar(frames: Tensor) -> Tensor:
    """uint8 (N, H, W, 3) to float (N, 3, H, W) in 0..255."""
    return frames.permute(0, 3, 1, 2).float()


def frechet(case: Case) -> Outputs:
    """The exact form stands for the reference's matrix square root; the eigenvalue form for torchmetrics'."""
    first, second = case.inputs["features1"], case.inputs["features2"]
    one, two = statistics(first), statistics(second)
    biased = [statistics(features, unbiased=False) for features in (first, second)]
    return {
        "fd": frechet_distance(first, second).value,
        "fd_exact": frechet_distance(first, second).value,
        "fd_biased": frechet_from_statistics(*biased).value,
        "fd_biased_exact": frechet_distance(first, second, unbiased=False).value,
        "fd_torchmetrics": frechet_from_statistics(one, two).value,
        **{f"{name}{index}": value for index, s in ((1, one), (2, two)) for name, value in _parts(s)},
    }


def _parts(found: Statistics) -> tuple[tuple[str, NDArray[np.float64]], ...]:
    return ("mu", found.mean), ("sigma", found.covariance)


def i3d(case: Case) -> Outputs:
    """Logits, pooled features and slices of two endpoints."""
    net = seeded(case, I3d(case.meta["config"]["variant"]))
    seen: dict[str, Tensor] = {}
    for name in ("Conv3d_1a_7x7", "Mixed_3b"):
        net.get_submodule(name).register_forward_hook(lambda _m, _i, out, n=name: seen.__setitem__(n, out))
    pooled = net.pooled(case.inputs["video_u8"].float() / 127.5 - 1)
    per_time = net.logits_per_time(pooled)
    return {
        "features": pooled,
        "logits_per_time": per_time,
        "logits": per_time.mean(dim=2),
        "conv3d_1a_7x7_slice": seen["Conv3d_1a_7x7"][0, :8, 0, ::8, ::8],
        "mixed_3b_slice": seen["Mixed_3b"][0, :, 0, ::4, ::4],
    }


def i3d_preprocess(case: Case) -> Outputs:
    """Both resize conventions."""
    video, side = case.inputs["video_u8"], case.meta["config"]["target"]
    return {
        "direct": resize.i3d_input(video, "direct", side)[..., ::3, ::3],
        "shortside_centercrop": resize.i3d_input(video, "short_side", side)[..., ::3, ::3],
    }


def fid_inception(case: Case) -> Outputs:
    """Three conventions at four taps."""
    net, frames = seeded(case, FidInception()), case.inputs["images_rgb_u8"].permute(0, 2, 3, 1)
    outputs: Outputs = {}
    for convention in ("tf1", "antialias", "pytorch_fid"):
        taps = net.taps(resize.inception_input(frames, convention))
        outputs |= {f"{convention}_{size}": features for size, features in taps.items()}
    return outputs


def lpips(case: Case) -> Outputs:
    """Distances and their parts."""
    net = seeded(case, Lpips(case.meta["config"]["net"]))
    images = [planar(case.inputs[f"image{index}_rgb_u8"]) / 127.5 - 1 for index in (0, 1)]
    return {"lpips": net(*images), "per_layer": net.per_layer(*images)}


def psnr(case: Case) -> Outputs:
    """Per frame, capped and not, and pooled."""
    first, second = case.inputs["video0_u8"], case.inputs["video1_u8"]
    joined = [video.flatten(0, 1)[None].numpy() for video in (first, second)]
    return {
        "psnr_per_frame": pixels.psnr(first, second),
        "psnr_uncapped": pixels.psnr(first, second, capped=False),
        "psnr_pooled_mse": pixels.psnr(*joined, capped=False)[0],
    }


def ssim(case: Case) -> Outputs:
    """Ours, torchmetrics' own border, and scikit-image as a witness."""
    from skimage.metrics import structural_similarity

    first, second = case.inputs["video0_u8"], case.inputs["video1_u8"]
    witness: Outputs = {}
    gauss = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    for name, options in (("default", {}), ("gauss", gauss)):
        witness[f"ssim_skimage_{name}"] = [
            structural_similarity(one / 255.0, two / 255.0, channel_axis=-1, data_range=1.0, **options)
            for one, two in zip(first.numpy().astype(float), second.numpy().astype(float), strict=True)
        ]
    return {
        "ssim_valid_gauss11": pixels.ssim(first, second),
        "ssim_torchmetrics": pixels.ssim(first, second, border="reflect"),
        **witness,
    }


def mfcc(case: Case) -> Outputs:
    """Coefficients and their intermediate steps."""
    waveform = case.inputs["waveform_i16"].numpy()
    energy, bands = speech.energies(speech.power_spectrum(waveform))
    return {
        "mfcc": speech.mfcc(waveform),
        "filterbank": speech.filterbank().copy(),
        "energy": energy,
        "fbank_energy": bands,
    }


def syncnet(case: Case) -> Outputs:
    """Embeddings of both towers."""
    net, inputs, expected = seeded(case, SyncNet()), case.inputs, case.outputs
    coefficients = speech.mfcc(inputs["waveform_i16"].numpy()).T
    np.testing.assert_allclose(coefficients, inputs["mfcc"].numpy(), rtol=1e-9, atol=1e-9)
    sound = torch.from_numpy(coefficients).float()
    windows = torch.stack([sound[None, :, 4 * i : 4 * i + 20] for i in range(len(expected["audio_embedding"]))])
    outputs = {"audio_embedding": net.audio(windows)}
    if "lip_embedding" in expected:  # the committed copy of the case leaves the pictures out
        video = inputs["frames_bgr_u8"].permute(3, 0, 1, 2).float()
        lips = torch.stack([video[:, i : i + 5] for i in range(len(expected["lip_embedding"]))])
        outputs |= {"lip_embedding": net.lip(lips), "lip_feature": net.lip_features(lips)}
    return outputs


def _score(found: lipsync.SyncScore) -> Outputs:
    names = ("distance", "mean_distance", "min_distance", "confidence", "offset", "framewise_confidence")
    return {name: getattr(found, name) for name in names}


def sync_score(case: Case) -> Outputs:
    """Scores of given embeddings."""
    shift = case.meta["config"]["vshift"]
    return _score(lipsync.sync_score(case.inputs["lip_embedding"], case.inputs["audio_embedding"], shift))


def sync_e2e(case: Case) -> Outputs:
    """Frames and sound to scores."""
    net = seeded(case, SyncNet())
    frames = case.inputs["frames_small_bgr_u8"].repeat_interleave(4, 1).repeat_interleave(4, 2).numpy()
    lips, sound = lipsync.embed_track(net, frames, case.inputs["waveform_i16"].numpy())
    found = lipsync.sync_score(lips, sound, case.meta["config"]["vshift"])
    return {**_score(found), "n_windows": len(lips)}


def face_track(case: Case) -> Outputs:
    """All tracks, one after another."""
    config = case.meta["config"]
    rules = tracks.TrackRules(
        config["iou_threshold"], config["num_failed_det"], config["min_track"], config["min_face_size"]
    )
    found = tracks.link(case.inputs["detections"], rules)
    return {
        "track_id": np.concatenate([np.full(len(track.frames), index) for index, track in enumerate(found)]),
        "frame": np.concatenate([track.frames for track in found]),
        "bbox": np.concatenate([track.boxes for track in found]),
    }


def face_smooth(case: Case) -> Outputs:
    """Smoothed squares and the span of the sound."""
    path = tracks.smooth(case.inputs["track_bbox"])
    span = tracks.sound_span(case.inputs["track_frame"].numpy(), case.meta["config"]["fps"])
    return {"s": path.half, "x": path.x, "y": path.y, "audio_start_end": span}


def face_crop(case: Case) -> Outputs:
    """Crops of the selected frames, subsampled as stored."""
    inputs, chosen = case.inputs, case.outputs["selected"]
    path = tracks.CropPath(*(inputs[name].numpy() for name in ("s", "x", "y")))
    crops = tracks.crop_track(inputs["frames_bgr_u8"].numpy(), inputs["track_frame"].numpy(), path)
    return {"crops": crops[chosen.numpy(), ::2, ::2].astype(np.float32), "selected": chosen}


def s3fd(case: Case) -> Outputs:
    """Raw heads, priors, decoded boxes, candidates."""
    net = seeded(case, S3fd())
    raw = net(planar(case.inputs["image_rgb_u8"][None]) - torch.tensor(detect.MEAN_RGB)[:, None, None])
    return {
        "loc": raw.regression[0],
        "conf_softmax": raw.scores[0],
        "priors": raw.priors,
        "decoded": decode(raw.regression[0], raw.priors),
        "detections": detect.candidates(raw),
    }


def s3fd_detect(case: Case) -> Outputs:
    """Image to boxes."""
    config, net = case.meta["config"], seeded(case, S3fd())
    image = case.inputs["image_rgb_u8"].numpy()
    return {"boxes": detect.detect_faces(net, image, min_score=config["conf_th"], scale=config["scale"])}


def landmarks_68_to_5(case: Case) -> Outputs:
    """Five points of the 68."""
    return {"landmarks5": align.five_from_68(case.inputs["landmarks68"])}


def recon_align(case: Case) -> Outputs:
    """Alignment numbers."""
    np.testing.assert_allclose(align.TEMPLATE, case.inputs["lm3d_5x3"].numpy(), rtol=0, atol=1e-7)
    width, height = case.inputs["image_size_wh"].tolist()
    alignment, points = align.fit(case.inputs["landmarks5_px"], width, height)
    return {"trans_params": alignment.as_array(), "landmarks_aligned": points}


def recon_align_image(case: Case) -> Outputs:
    """The aligned crop, subsampled as stored."""
    width, height, *rest = case.inputs["trans_params"].tolist()
    alignment = align.Alignment(int(width), int(height), *rest)
    crop = align.crop(case.inputs["image_rgb_u8"].numpy(), alignment)
    return {"aligned": crop[::2, ::2].astype(np.float32)}


def recon_resnet50(case: Case) -> Outputs:
    """Coefficients."""
    coefficients = seeded(case, ReconNet())(planar(case.inputs["image_rgb_u8"]) / 255)
    return {"coeff": coefficients, "exp": coefficients[:, EXPRESSION]}


def bisenet(case: Case) -> Outputs:
    """All three heads in the case's naming."""
    config = case.meta["config"]
    net = seeded(case, BiSeNet(config.get("naming", "zllrunning"), config["backbone"]))
    main, middle, deep = net.heads(parsing.parser_input(case.inputs["image_rgb_u8"].numpy()))
    return {"logits": main, "logits16": middle, "logits32": deep}


def dfa_mask(case: Case) -> Outputs:
    """Every class set under every reduction."""
    labels, outputs = case.inputs["labels_u8"].numpy(), {}
    for name in case.outputs:
        chosen, reduction = re.fullmatch(r"(.+?)_(bilinear|area|nearest|token_any|token_half)", name).groups()
        classes = parsing.CLASS_SETS[chosen]
        assert sorted(classes) == case.meta["config"]["sets"][chosen]
        kind = "area" if reduction.startswith("token") else reduction
        share = parsing.foreground(labels, classes, kind, case.meta["config"]["out_size"])
        rule = reduction.removeprefix("token_")
        outputs[name] = parsing.tokens(share, rule) if reduction.startswith("token") else share
    return outputs


HANDLERS: dict[str, Callable[[Case], Outputs]] = {
    handler.__name__: handler
    for handler in (
        frechet,
        i3d,
        i3d_preprocess,
        fid_inception,
        lpips,
        psnr,
        ssim,
        mfcc,
        syncnet,
        sync_score,
        sync_e2e,
        face_track,
        face_smooth,
        face_crop,
        s3fd,
        s3fd_detect,
        landmarks_68_to_5,
        recon_align,
        recon_align_image,
        recon_resnet50,
        bisenet,
        dfa_mask,
    )
}
