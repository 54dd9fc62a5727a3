"""The public files each model needs: repository, revision, size, SHA-256 and place below `paths.weights`.

`paths.weights` has the layout of the public Hallo repository itself, so a clone of it can be used as it is.

Where a revision and a SHA-256 are written here, the file is pinned: another file is refused. Where they are `None`
nobody has vouched for them yet; the first fetch resolves the branch to a commit, notes commit and SHA-256 in
`weights.lock.json` beside the files, and every later fetch and load is held against that note (trust on first use).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from lcp_bench.errors import ConfigError

REQUIRED = "required"


@dataclass(frozen=True, slots=True, kw_only=True)
class PublicFile:
    """One file of a public repository.

    Attributes:
        repository: repository id on the hub, `owner/name`.
        path: path inside the repository.
        folder: folder below `paths.weights` that receives `path`; empty for `paths.weights` itself.
        revision: commit the file is pinned to; `None` means the branch `main`, resolved at the first fetch.
        sha256: hex digest of the content; `None` means trust on first use.
        size_bytes: exact size; `None` where it is not known.
        about_bytes: an estimate for the reader where `size_bytes` is not known.
        group: `required`, or the name of an optional extra.
        purpose: what it is used for, shown to the user.
    """

    repository: str
    path: str
    folder: str = ""
    revision: str | None = None
    sha256: str | None = None
    size_bytes: int | None = None
    about_bytes: int | None = None
    group: str = REQUIRED
    purpose: str = ""

    @property
    def place(self) -> str:
        """Path below `paths.weights`, with forward slashes."""
        return str(PurePosixPath(self.folder) / self.path)

    @property
    def size_text(self) -> str:
        """Size for the reader, for example `334.6 MB`, `about 4.85 GB` or `size unknown`."""
        if self.size_bytes is not None:
            return format_bytes(self.size_bytes)
        return f"about {format_bytes(self.about_bytes)}" if self.about_bytes is not None else "size unknown"


def format_bytes(count: int) -> str:
    """Bytes in decimal units, as file listings on the hub show them.

    >>> format_bytes(547), format_bytes(334_643_276)
    ('547 B', '334.6 MB')
    """
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= size:
            return f"{count / size:.2f} {unit}" if unit == "GB" else f"{count / size:.1f} {unit}"
    return f"{count} B"


HALLO_REPOSITORY = "fudan-generative-ai/hallo"
VAE_REPOSITORY = "stabilityai/sd-vae-ft-mse"
VAE_REVISION = "31f26fdeee1355a5c34592e401dd41e45d25a493"
WAV2VEC_REPOSITORY = "facebook/wav2vec2-base-960h"
WAV2VEC_REVISION = "22aad52d435eb6dbaf354bdad9b0da84ce7d6156"

VAE_FILES = (
    PublicFile(
        repository=VAE_REPOSITORY,
        path="config.json",
        folder="sd-vae-ft-mse",
        revision=VAE_REVISION,
        sha256="92d3dfb746fca211a2c9e019e285f8597412211728dce3c5bcf4eda0f2d62e7e",
        size_bytes=547,
        purpose="configuration of the image autoencoder",
    ),
    PublicFile(
        repository=VAE_REPOSITORY,
        path="diffusion_pytorch_model.safetensors",
        folder="sd-vae-ft-mse",
        revision=VAE_REVISION,
        sha256="a1d993488569e928462932c8c38a0760b874d166399b14414135bd9c42df5815",
        size_bytes=334_643_276,
        purpose="image autoencoder",
    ),
)

WAV2VEC_FILES = (
    PublicFile(
        repository=WAV2VEC_REPOSITORY,
        path="config.json",
        folder="wav2vec/wav2vec2-base-960h",
        revision=WAV2VEC_REVISION,
        sha256="d3ec255c063d9f95057b553b19c20135b259875834a4fe9deb218a6be25b4cf3",
        size_bytes=1_596,
        purpose="configuration of the speech encoder",
    ),
    PublicFile(
        repository=WAV2VEC_REPOSITORY,
        path="model.safetensors",
        folder="wav2vec/wav2vec2-base-960h",
        revision=WAV2VEC_REVISION,
        sha256="8aa76ab2243c81747a1f832954586bc566090c83a0ac167df6f31f0fa917d74a",
        size_bytes=377_607_901,
        purpose="speech encoder",
    ),
)

FACE_ANALYSIS = "face_analysis"
AUDIO_SEPARATOR = "audio_separator"
REDUNDANT = "redundant"

HALLO_FILES = (
    PublicFile(
        repository=HALLO_REPOSITORY,
        path="hallo/net.pth",
        about_bytes=4_850_000_000,  # 2,424,802,964 numbers at two bytes each
        purpose="both UNets, face locator, image and audio projection",
    ),
    PublicFile(
        repository=HALLO_REPOSITORY,
        path="stable-diffusion-v1-5/unet/config.json",
        about_bytes=750,
        purpose="configuration of the UNets (their base weights are overwritten by net.pth and not needed)",
    ),
    *VAE_FILES,
    *WAV2VEC_FILES,
    *(
        PublicFile(
            repository=HALLO_REPOSITORY,
            path=f"face_analysis/models/{name}",
            group=FACE_ANALYSIS,
            purpose=purpose,
        )
        for name, purpose in (
            ("scrfd_10g_bnkps.onnx", "upstream's face detector"),
            ("glintr100.onnx", "upstream's 512-d face embedding"),
            ("1k3d68.onnx", "upstream's 3-D landmarks"),
            ("2d106det.onnx", "upstream's 2-D landmarks"),
            ("genderage.onnx", "part of upstream's face analysis folder"),
        )
    ),
    PublicFile(
        repository=HALLO_REPOSITORY,
        path="audio_separator/Kim_Vocal_2.onnx",
        group=AUDIO_SEPARATOR,
        purpose="vocal separation",
    ),
    PublicFile(
        repository=HALLO_REPOSITORY,
        path="motion_module/mm_sd_v15_v2.ckpt",
        about_bytes=1_820_000_000,  # 453,209,280 weights and 1,208,320 table entries at four bytes each
        group=REDUNDANT,
        purpose="AnimateDiff motion module; net.pth overwrites all of it, never read here",
    ),
)

MEMO_REPOSITORY = "memoavatar/memo"
EMOTION2VEC_REPOSITORY = "emotion2vec/emotion2vec_plus_large"
EMOTION2VEC = "emotion2vec"

MEMO_FILES = (
    *(
        PublicFile(repository=MEMO_REPOSITORY, path=f"{folder}/{name}", folder="memo", about_bytes=size, purpose=text)
        for folder, count, purpose in (
            ("diffusion_net", 1_678_033_540, "denoising UNet"),
            ("reference_net", 857_066_560, "reference UNet"),
            ("image_proj", 1_577_472, "identity projection"),
            ("audio_proj", 36_465_152, "audio projection"),
            ("misc/audio_emotion_classifier", 14_706_697, "emotion classifier"),
        )
        for name, size, text in (
            ("config.json", 1_000, f"configuration of the {purpose}"),
            ("diffusion_pytorch_model.safetensors", 4 * count, purpose),
        )
    ),
    *VAE_FILES,
    *WAV2VEC_FILES,
    *(
        PublicFile(
            repository=EMOTION2VEC_REPOSITORY,
            path=name,
            folder="emotion2vec_plus_large",
            group=EMOTION2VEC,
            purpose=f"{purpose} of the speech encoder behind model.emotion=classified",
        )
        for name, purpose in (
            ("config.yaml", "shape"),
            ("configuration.json", "description"),
            ("model.pt", "weights"),
            ("tokens.txt", "names of the classes"),
        )
    ),
    *(
        PublicFile(
            repository=MEMO_REPOSITORY,
            path=f"misc/face_analysis/models/{name}",
            folder="memo",
            group=FACE_ANALYSIS,
            purpose=purpose,
        )
        for name, purpose in (
            ("scrfd_10g_bnkps.onnx", "upstream's face detector"),
            ("glintr100.onnx", "upstream's 512-d face embedding"),
        )
    ),
)
"""The folder has the layout of the public repository below `memo`; about bytes: four per number of the manifests."""

ECHOMIMIC_REPOSITORY = "BadToBest/EchoMimic"


def _echomimic_files(variant: str) -> tuple[PublicFile, ...]:
    """EchoMimic's files, in the layout of the public repository below `echomimic`; about bytes: four per number."""
    return (
        *(
            PublicFile(
                repository=ECHOMIMIC_REPOSITORY, path=path, folder="echomimic", about_bytes=size, purpose=purpose
            )
            for path, size, purpose in (
                (f"denoising_unet{variant}.pth", 4 * 849_936_324, "denoising UNet without its temporal modules"),
                (f"motion_module{variant}.pth", 4 * 454_417_600, "temporal modules of the denoising UNet"),
                ("reference_unet.pth", 4 * 815_521_280, "reference UNet"),
                ("face_locator.pth", 4 * 1_086_192, "face locator"),
                ("audio_processor/whisper_tiny.pt", 2 * 37_184_640, "speech encoder (Whisper tiny)"),
                ("sd-image-variations-diffusers/unet/config.json", 1_000, "configuration of the UNets"),
            )
        ),
        *VAE_FILES,
    )


SOURCES: dict[str, tuple[PublicFile, ...]] = {
    "hallo": HALLO_FILES,
    "echomimic": _echomimic_files(""),
    "echomimic_acc": _echomimic_files("_acc"),
    "memo": MEMO_FILES,
}


def files_for(model: str, extras: Iterable[str] = ()) -> tuple[PublicFile, ...]:
    """Public files of a model: the required ones and those of the named optional groups.

    Args:
        model: name of the model, a key of `SOURCES`.
        extras: optional groups, for example `face_analysis`.

    Raises:
        ConfigError: unknown model or group; the message lists the choices.
    """
    if model not in SOURCES:
        raise ConfigError(f"no public files are listed for model={model!r}; choose one of {sorted(SOURCES)}")
    optional = {file.group for file in SOURCES[model]} - {REQUIRED}
    unknown = sorted(set(extras) - optional)
    if unknown:
        raise ConfigError(f"unknown extras {unknown} for model={model}; choose from {sorted(optional)}")
    wanted = {REQUIRED, *extras}
    return tuple(file for file in SOURCES[model] if file.group in wanted)


def missing_files(model: str, root: Path) -> tuple[PublicFile, ...]:
    """Required public files of a model that are not below `root`."""
    return tuple(file for file in files_for(model) if not (root / file.place).is_file())
