"""The family's UNet: a walk over named layers that can run in full, record features, or run a scope.

One class serves the two-dimensional reference network (writes features) and the three-dimensional denoising network
(reads them, hears the audio, looks along time). Maps are (rows, channels, height, width) throughout.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lcp_bench.accel.gate import Fork
from lcp_bench.accel.scope import Scope, full_scope
from lcp_bench.models.attention import Attention, KeysValues, SpatialTransformer
from lcp_bench.models.audio import AudioTransformer
from lcp_bench.models.conditions import Conditions, Layout, ReferenceBank, SiteConditions, reference_rows, split_bank
from lcp_bench.models.config import UNetConfig
from lcp_bench.models.features import Engagement, FeatureCache
from lcp_bench.models.joint_audio import JointAudioTransformer
from lcp_bench.models.layers import Downsample, ResnetBlock, TimeEmbedding, Upsample, pooled_norm
from lcp_bench.models.memory import Memory, MemoryModule
from lcp_bench.models.temporal import TemporalModule
from lcp_bench.models.topology import LayerSpec
from lcp_bench.models.walk import Call, Walk


class Block(nn.Module):
    """The modules of one resolution, under the published names; the walk lives in `UNet`."""

    def __init__(self, config: UNetConfig, kind: str, index: int, inputs: Sequence[int], channels: int) -> None:
        super().__init__()
        self.attends = kind == "mid" or config.attention_levels[_level(config, kind, index)]
        norm: dict[str, Any] = {"groups": config.norm_groups, "eps": config.norm_eps}
        self.resnets = nn.ModuleList(ResnetBlock(width, channels, config.time_dim, **norm) for width in inputs)
        layers = range(1 if kind == "mid" else len(inputs))
        if self.attends:
            cross = (config.image_token_dim, config.image_scale)
            self.attentions = nn.ModuleList(
                SpatialTransformer(channels, config.heads, config.norm_groups, *cross) for _ in layers
            )
        if self.attends and config.audio is not None:
            audio = config.audio
            widths = [config.audio_width(kind, index, layer) for layer in layers]
            self.audio_modules = nn.ModuleList(
                AudioTransformer(channels, width, config.heads, config.norm_groups, audio.token_dim, audio.branches)
                for width in widths
            )
        last = len(config.channels) - 1
        if self.attends and config.joint_audio is not None:
            joint, shape = config.joint_audio, (config.heads, config.norm_groups)
            self.audio_modules = nn.ModuleList(
                JointAudioTransformer(
                    channels,
                    config.audio_width(kind, index, layer),
                    *shape,
                    joint,
                    final=kind == "up" and index == last and layer == layers[-1],
                )
                for layer in layers
            )
        if config.temporal is not None:
            temporal = config.temporal
            module = MemoryModule if temporal.memory else TemporalModule
            self.motion_modules = nn.ModuleList(module(channels, temporal) for _ in layers)
        if kind == "down" and index < last:
            self.downsamplers = nn.ModuleList([Downsample(channels)])
        if kind == "up" and index < last:
            self.upsamplers = nn.ModuleList([Upsample(channels)])


def _level(config: UNetConfig, kind: str, index: int) -> int:
    return index if kind == "down" else len(config.channels) - 1 - index


class UNet(nn.Module):
    """An SD-1.5-shaped UNet with named, individually evaluable layers."""

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = config
        self.topology = config.topology
        channels = config.channels
        self.conv_in = nn.Conv2d(config.latent_channels, channels[0], 3, padding=1)
        self.time_embedding = TimeEmbedding(channels[0], config.time_dim)
        self.down_blocks = nn.ModuleList(
            Block(config, "down", i, [channels[max(i - 1, 0)], *[width] * (config.layers_per_block - 1)], width)
            for i, width in enumerate(channels)
        )
        self.mid_block = Block(config, "mid", 0, [channels[-1]] * 2, channels[-1])
        self.up_blocks = nn.ModuleList(
            Block(config, "up", i, self._up_inputs(i), width) for i, width in enumerate(channels[::-1])
        )
        if config.writes_maps:
            self.attention_sites()[self.topology.names[-2]].cut()
        if config.output_head:
            self.conv_norm_out = nn.GroupNorm(config.norm_groups, channels[0], eps=config.norm_eps)
            self.conv_out = nn.Conv2d(channels[0], config.latent_channels, 3, padding=1)

    def _up_inputs(self, block: int) -> list[int]:
        """Input widths (hidden plus skip) of the resnets of an up block."""
        rising = self.config.channels[::-1]
        widths = []
        for layer in range(self.config.layers_per_block + 1):
            hidden = rising[max(block - 1, 0)] if layer == 0 else rising[block]
            last = layer == self.config.layers_per_block
            skip = rising[min(block + 1, len(rising) - 1)] if last else rising[block]
            widths.append(hidden + skip)
        return widths

    def embed_time(self, timesteps: Sequence[float]) -> Tensor:
        """Time embeddings (steps, time_dim) of a whole sampling run, so that no step moves data to the device."""
        weight = self.time_embedding.linear_1.weight
        return self.time_embedding(torch.tensor(timesteps, dtype=torch.float32, device=weight.device))

    def _module(self, name: str) -> tuple[Block, int, str]:
        kind, *place = name.split(".")
        if kind == "mid":
            return self.mid_block, 0, "mid"
        block = (self.down_blocks if kind == "down" else self.up_blocks)[int(place[0])]
        assert isinstance(block, Block)
        return (block, 0, place[1]) if place[1] in ("ds", "us") else (block, int(place[1]), kind)

    def attention_sites(self) -> dict[str, SpatialTransformer]:
        """Every layer with spatial attention, in execution order."""
        sites: dict[str, SpatialTransformer] = {}
        for spec in self.topology.layers:
            if spec.name in ("conv_in", "out") or spec.name.endswith("s"):
                continue
            block, layer, _ = self._module(spec.name)
            if block.attends:
                transformer = block.attentions[layer]
                assert isinstance(transformer, SpatialTransformer)
                sites[spec.name] = transformer
        return sites

    # ------------------------------------------------------------------ evaluation

    def forward(
        self,
        latents: Tensor,
        time: Tensor,
        conditions: Conditions,
        *,
        steps: Sequence[int] = (0,),
        scope: Scope | None = None,
        cache: FeatureCache | None = None,
        record: Sequence[str] = (),
        engagement: Engagement | None = None,
        fork: Fork | None = None,
    ) -> Tensor:
        """Predict for one step, or for the members of a parallel group at once.

        Args:
            latents: (1 or branches, members, C, frames, h, w); one entry on the first axis serves all branches.
            time: Time embeddings of the members, (members, time_dim), see `embed_time`.
            conditions: Constants of the segment.
            steps: The members' step indices, for the counters.
            scope: Layers to evaluate; None is all of them.
            cache: Features of the key step: read if a scope asks for them, replaced if `record` names any.
            record: Features to keep for the followers of this step.
            engagement: Counters to update.
            fork: Where a full pass may turn into a follower's; features are then read, and nothing is recorded.

        Returns:
            The prediction (branches, members, C, frames, h, w).
        """
        members, frames = latents.shape[1], latents.shape[3]
        layout = Layout(conditions.branches, members, frames)
        rows = time[:, None].expand(-1, frames, -1).flatten(0, 1)
        rows = rows.expand(conditions.branches, *rows.shape).flatten(0, 1)
        size = (latents.shape[4], latents.shape[5])
        spread = conditions.for_members(members)
        call = Call(layout, F.silu(rows), size, spread, stream=spread.audio_stream)
        walk = Walk(self, call, scope or full_scope(self.topology), cache, record, steps, engagement, fork)
        hidden = walk.run(latents)
        if walk.recorded and cache is not None:
            cache.replace(walk.recorded, steps[0])
        return hidden.unflatten(0, (layout.branches, members, frames)).transpose(2, 3)

    def forward_samples(self, latents: Tensor, time: Tensor, conditions: Conditions) -> Tensor:
        """Predict for independent samples, each at its own timestep: the full pass as training needs it.

        Args:
            latents: (samples, C, frames, h, w).
            time: Time embeddings of the samples, (samples, time_dim).
            conditions: One branch per sample; every row reads its own sample's constants.

        Returns:
            The prediction (samples, C, frames, h, w).
        """
        samples, frames = latents.shape[0], latents.shape[2]
        layout = Layout(samples, 1, frames, guided=False)
        size = (latents.shape[3], latents.shape[4])
        call = Call(layout, F.silu(time.repeat_interleave(frames, 0)), size, conditions)
        hidden = Walk(self, call, full_scope(self.topology), None, (), (), None).run(latents[:, None])
        return hidden.unflatten(0, (samples, frames)).transpose(1, 2)

    def write_features(
        self,
        latents: Tensor,
        image_tokens: Tensor | None,
        *,
        whole: bool = False,
        unread: Collection[str] = (),
    ) -> tuple[dict[str, Tensor], Tensor | None]:
        """Run as a reference network at timestep 0 and return the normed tokens of every attention site.

        Args:
            latents: (rows, C, h, w): portrait and motion frames of each branch in turn.
            image_tokens: (branches, tokens, dim) or None. Row r attends to token set r mod branches, as published.
            whole: Also evaluate what no feature depends on, and return the last hidden map.
            unread: Sites whose features nobody will read; they are left out, and what only they depend on is not
                evaluated.
        """
        rows = latents.shape[0]
        layout = Layout(1, 1, rows)
        time = F.silu(self.embed_time([0.0])).expand(rows, -1)
        image = None if image_tokens is None else image_tokens.repeat(rows // image_tokens.shape[0], 1, 1)
        call = Call(layout, time, (latents.shape[2], latents.shape[3]), image=image, bank={})
        read = [site for site in self.attention_sites() if site not in unread]
        last_site = read[-1] if read else None
        hidden = latents
        if last_site is None and not whole:
            return {}, None
        for spec in self.topology.layers[:-1]:
            if spec.name == last_site and not whole:
                self._write_last(spec, hidden, call)
                return self._bank(call, unread), None
            hidden = self._run(spec, hidden, call)
            if spec.pushes:
                call.skips[spec.name] = hidden
        return self._bank(call, unread), hidden

    def _write_last(self, spec: LayerSpec, hidden: Tensor, call: Call) -> None:
        block, layer, _ = self._module(spec.name)
        hidden = block.resnets[layer](self._join(spec, hidden, call), call.time)
        transformer = block.attentions[layer]
        assert isinstance(transformer, SpatialTransformer) and call.bank is not None
        call.bank[spec.name] = [transformer.write_only(hidden)]

    @staticmethod
    def _bank(call: Call, unread: Collection[str]) -> dict[str, Tensor]:
        assert call.bank is not None
        return {site: features[0] for site, features in call.bank.items() if site not in unread}

    @staticmethod
    def _join(spec: LayerSpec, hidden: Tensor, call: Call) -> Tensor:
        if spec.pops is None:
            return hidden
        return torch.cat([hidden, call.skips.pop(spec.pops)], dim=1)

    def _run(self, spec: LayerSpec, hidden: Tensor, call: Call) -> Tensor:
        """Evaluate one layer on the hidden map; skips come from `call.skips`."""
        if spec.name == "conv_in":
            return self._run_conv_in(hidden, call)
        if spec.name == "out":
            return self.conv_out(F.silu(pooled_norm(self.conv_norm_out, hidden, self._pooled(call))))
        block, layer, kind = self._module(spec.name)
        if kind == "ds":
            return block.downsamplers[0](hidden)
        if kind == "us":
            return block.upsamplers[0](hidden, call.level_size(spec.level))
        hidden = block.resnets[layer](self._join(spec, hidden, call), call.time, self._pooled(call))
        if block.attends:
            hidden = self._run_attention(spec, block, layer, hidden, call)
        elif self.config.writes_maps and call.bank is not None:
            call.bank[spec.name] = [hidden.flatten(2).transpose(1, 2)]
        temporal = self.config.temporal
        if temporal is not None and (block.attends or temporal.in_plain_blocks):
            known = call.conditions is not None and (block.attends or temporal.memory)
            site = call.conditions.sites[spec.name] if call.conditions and known else SiteConditions()
            past = site.memory or site.motion
            hidden = block.motion_modules[layer](hidden, call.layout.frames, past, call.rows(spec, "temporal"))
        return block.resnets[1](hidden, call.time, self._pooled(call)) if kind == "mid" else hidden

    def _pooled(self, call: Call) -> int:
        """Consecutive rows that share the statistics of resnet and output norms."""
        return call.layout.frames if self.config.pooled_norms else 1

    def _run_conv_in(self, latents: Tensor, call: Call) -> Tensor:
        """Latents to level 0; branches that share latents share the convolution."""
        if call.conditions is None:
            return self.conv_in(latents)
        layout = call.layout
        folded = self.conv_in(latents.transpose(2, 3).flatten(0, 2).to(self.conv_in.weight.dtype))
        maps = folded.unflatten(0, (latents.shape[0], layout.members, layout.frames))
        if call.conditions.pixel_feature is not None:
            maps = maps + call.conditions.pixel_feature[:, None]
        return maps.expand(layout.branches, -1, -1, -1, -1, -1).flatten(0, 2)

    def _run_attention(self, spec: LayerSpec, block: Block, layer: int, hidden: Tensor, call: Call) -> Tensor:
        name, transformer = spec.name, block.attentions[layer]
        assert isinstance(transformer, SpatialTransformer)
        if call.conditions is None:
            assert call.bank is not None
            image = None if call.image is None else transformer.block.attn2.project(call.image)
            return transformer(hidden, None, image, call.bank.setdefault(name, []))
        site, conditions = call.conditions.sites[name], call.conditions
        reference = site.reference_context(call.layout) if call.reads_reference(name) else None
        hidden = transformer(hidden, reference, site.image, rows=call.rows(spec, "reference"))
        if self.config.audio is not None:
            rows, mask = call.rows(spec, "audio"), conditions.masks[spec.level]
            hidden = block.audio_modules[layer](hidden, site.audio, mask, conditions.motion_scale, rows)
        elif self.config.joint_audio is not None:
            assert call.stream is not None
            hearing = block.audio_modules[layer]
            hidden, call.stream = hearing(hidden, call.stream, site.styles, call.rows(spec, "audio"))
        return hidden

    # ------------------------------------------------------------------ segment constants

    def site_conditions(
        self,
        bank: ReferenceBank | None,
        image_tokens: Tensor | None,
        audio_tokens: Tensor | None,
        *,
        branches: int,
        frames: int,
        row_rule: str,
        unread: Collection[str] = (),
    ) -> dict[str, SiteConditions]:
        """Project everything that is constant over a segment, once.

        Args:
            bank: Reference features (branches * images, L, C) per site; image 0 is the portrait, the others are motion
                frames for the temporal module. None: plain self-attention, no motion frames.
            image_tokens: (branches, tokens, dim), or (branches, frames, tokens, dim) where every frame has its own, or
                None.
            audio_tokens: (branches, frames, tokens, dim) or None.
            branches: Guidance branches.
            frames: Frames per sample.
            row_rule: See `reference_rows`.
            unread: Sites whose portrait features nobody will read and that are therefore not projected.
        """
        split = {} if bank is None else split_bank(bank, branches)
        sites: dict[str, SiteConditions] = {}
        for name, transformer in self.attention_sites().items():
            block, layer, _ = self._module(name)
            reference = motion = image = None
            memory: tuple[Memory, ...] = ()
            audio: tuple[KeysValues, ...] = ()
            if name in split:
                portrait, motion_tokens = split[name]
                if name not in unread:
                    rows = reference_rows(portrait, branches, frames, row_rule)
                    reference = transformer.block.attn1.project(rows.contiguous())
                if motion_tokens.shape[1] and self.config.temporal is not None:
                    temporal = block.motion_modules[layer]
                    assert isinstance(temporal, TemporalModule)
                    if isinstance(temporal, MemoryModule):
                        memory = temporal.remember(motion_tokens)
                    else:
                        motion = temporal.project_motion(motion_tokens)
            if image_tokens is not None:
                image = _row_tokens(transformer.block.attn2, image_tokens, frames)
            if audio_tokens is not None and self.config.audio is not None:
                hearing = block.audio_modules[layer]
                assert isinstance(hearing, AudioTransformer)
                audio = hearing.project_audio(audio_tokens.flatten(0, 1))
            sites[name] = SiteConditions(reference, image, audio, motion, memory)
        return sites


def _row_tokens(attention: Attention, tokens: Tensor, frames: int) -> KeysValues:
    """Projected cross-attention tokens of every (branch, frame) row, given per branch or per frame."""
    if tokens.ndim == 4:
        return attention.project(tokens.flatten(0, 1))
    return KeysValues(*(tensor.repeat_interleave(frames, 0) for tensor in attention.project(tokens)))
