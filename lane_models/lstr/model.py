"""LSTR's network: a small ResNet, a transformer with seven lane queries, and three output heads.

Liu et al., "End-to-end Lane Shape Prediction with Transformers", WACV 2021.
Every tensor between sub-modules has the batch first, so that cached activations can be sliced by image.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lane_models.backbones.resnet import ResNet
from lane_models.backbones.sine_code import sine_code
from lane_models.state_keys import use_official_keys
from selective_focus.detector import Heads, MatMul

QUERIES = 7
"""Lanes that can be found in one image."""

PROJECTIONS = ("q_proj", "k_proj", "v_proj")


class SinePosition(nn.Module):
    """The fixed position code of a feature map: [N, C, h, w] -> [N, h*w, channels], y part then x part."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels

    def forward(self, features: Tensor) -> Tensor:
        n, _, h, w = features.shape
        half = self.channels // 2

        def code(size: int) -> Tensor:
            place = torch.arange(1, size + 1, device=features.device, dtype=torch.float32)
            return sine_code(place / (size + 1e-6) * (2 * math.pi), half)

        y = code(h)[:, None].expand(h, w, half)
        x = code(w)[None].expand(h, w, half)
        grid = torch.cat((y, x), dim=2).reshape(1, h * w, self.channels)
        return grid.to(features.dtype).expand(n, -1, -1)


class Attention(nn.Module):
    """Multi-head attention: query [N, L, d], key and value [N, S, d] -> [N, L, d].

    The projections are layers of their own and the two products are ``MatMul`` modules, so that a quantizer
    can reach them. In the state dict the three input projections are packed in one matrix and one bias, as in
    ``nn.MultiheadAttention`` and in official checkpoints.
    """

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj = nn.Linear(channels, channels)
        self.k_proj = nn.Linear(channels, channels)
        self.v_proj = nn.Linear(channels, channels)
        self.scores = MatMul()
        self.softmax = nn.Softmax(dim=-1)
        self.context = MatMul()
        self.out_proj = nn.Linear(channels, channels)
        self.register_state_dict_post_hook(pack_projections)
        self.register_load_state_dict_pre_hook(unpack_projections)

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        q = self._split(self.q_proj(query)) / math.sqrt(query.shape[-1] // self.heads)
        k, v = self._split(self.k_proj(key)), self._split(self.v_proj(value))
        weights = self.softmax(self.scores(q, k.transpose(-1, -2)))
        joined = self.context(weights, v).transpose(1, 2).flatten(2)
        return self.out_proj(joined)

    def _split(self, x: Tensor) -> Tensor:
        """[N, L, d] -> [N, heads, L, d / heads]."""
        return x.reshape(*x.shape[:2], self.heads, -1).transpose(1, 2)


def pack_projections(_attention: nn.Module, state: dict[str, Tensor], prefix: str, *_: Any) -> None:
    """State-dict hook: q, k and v projections become ``in_proj_weight`` and ``in_proj_bias``."""
    for kind in ("weight", "bias"):
        parts = [f"{prefix}{name}.{kind}" for name in PROJECTIONS]
        # A quantizer may have replaced some of the three: then they stay apart.
        if all(part in state for part in parts):
            state[f"{prefix}in_proj_{kind}"] = torch.cat([state.pop(part) for part in parts])


def unpack_projections(_attention: nn.Module, state: dict[str, Tensor], prefix: str, *_: Any) -> None:
    """Load-state-dict hook: the inverse of ``pack_projections``."""
    for kind in ("weight", "bias"):
        if f"{prefix}in_proj_{kind}" in state:
            parts = state.pop(f"{prefix}in_proj_{kind}").chunk(3)
            state.update({f"{prefix}{name}.{kind}": v for name, v in zip(PROJECTIONS, parts, strict=True)})


class EncoderLayer(nn.Module):
    """Self-attention over the feature map, then a feed-forward part: x, position [N, S, d] -> [N, S, d]."""

    def __init__(self, channels: int, heads: int, feedforward: int) -> None:
        super().__init__()
        self.self_attn = Attention(channels, heads)
        self.linear1 = nn.Linear(channels, feedforward)
        self.relu = nn.ReLU()
        self.linear2 = nn.Linear(feedforward, channels)
        self.norm1 = nn.LayerNorm(channels)
        self.norm2 = nn.LayerNorm(channels)

    def forward(self, x: Tensor, position: Tensor) -> Tensor:
        placed = x + position
        x = self.norm1(x + self.self_attn(placed, placed, x))
        return self.norm2(x + self.linear2(self.relu(self.linear1(x))))


class DecoderLayer(nn.Module):
    """Attention among the queries, then from the queries to the feature map, then a feed-forward part.

    x, query_position [N, Q, d]; memory, position [N, S, d] -> [N, Q, d].
    """

    def __init__(self, channels: int, heads: int, feedforward: int) -> None:
        super().__init__()
        self.self_attn = Attention(channels, heads)
        self.multihead_attn = Attention(channels, heads)
        self.linear1 = nn.Linear(channels, feedforward)
        self.relu = nn.ReLU()
        self.linear2 = nn.Linear(feedforward, channels)
        self.norm1 = nn.LayerNorm(channels)
        self.norm2 = nn.LayerNorm(channels)
        self.norm3 = nn.LayerNorm(channels)

    def forward(self, x: Tensor, query_position: Tensor, memory: Tensor, position: Tensor) -> Tensor:
        placed = x + query_position
        x = self.norm1(x + self.self_attn(placed, placed, x))
        x = self.norm2(x + self.multihead_attn(x + query_position, memory + position, memory))
        return self.norm3(x + self.linear2(self.relu(self.linear1(x))))


class Encoder(nn.Module):
    """Two encoder layers without a final norm."""

    def __init__(self, channels: int, heads: int, feedforward: int, layers: int = 2) -> None:
        super().__init__()
        self.layers = nn.ModuleList(EncoderLayer(channels, heads, feedforward) for _ in range(layers))

    def forward(self, x: Tensor, position: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x, position)
        return x


class Decoder(nn.Module):
    """Two decoder layers and a final norm; the queries' content starts at zero."""

    def __init__(self, channels: int, heads: int, feedforward: int, layers: int = 2) -> None:
        super().__init__()
        self.layers = nn.ModuleList(DecoderLayer(channels, heads, feedforward) for _ in range(layers))
        self.norm = nn.LayerNorm(channels)

    def forward(self, query_position: Tensor, memory: Tensor, position: Tensor) -> Tensor:
        x = torch.zeros_like(query_position)
        for layer in self.layers:
            x = layer(x, query_position, memory, position)
        return self.norm(x)


class Transformer(nn.Module):
    """features, position [N, S, d] and query_position [N, Q, d] -> the queries' final states [N, Q, d]."""

    def __init__(self, channels: int, heads: int, feedforward: int) -> None:
        super().__init__()
        self.encoder = Encoder(channels, heads, feedforward)
        self.decoder = Decoder(channels, heads, feedforward)

    def forward(self, features: Tensor, position: Tensor, query_position: Tensor) -> Tensor:
        return self.decoder(query_position, self.encoder(features, position), position)


class MLP(nn.Module):
    """Three linear layers with ReLU between them: [..., channels] -> [..., out_channels]."""

    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__()
        widths = (channels, channels, out_channels)
        self.layers = nn.ModuleList(nn.Linear(channels, width) for width in widths)
        self.relus = nn.ModuleList(nn.ReLU() for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        for layer, relu in zip(self.layers, self.relus, strict=False):
            x = relu(layer(x))
        return self.layers[-1](x)


class LSTR(nn.Module):
    """[N, 3, H, W] -> heads, for N images and Q = 7 queries.

    | head | shape | meaning |
    | --- | --- | --- |
    | classification | [N, Q, classes] | logits; class 1 is "lane" |
    | endpoints | [N, Q, 2] | the lane's extent: two y in parts of the frame height (order: ``decode``) |
    | lane_terms | [N, Q, 2] | b'' and b''' of the curve: slope and offset of this lane |
    | camera_terms | [N, 1, 4] | k'', f'', m'', n' of the curve: one for all lanes of an image |

    blocks, width: of the ResNet; the transformer has ``2 * width`` channels. classes: 2 or 3.
    prefixed: whether official backbone keys start with "backbone." (pytorch-auto-drive) or not (original).
    """

    def __init__(
        self,
        blocks: Sequence[int] = (1, 2, 2, 2),
        width: int = 16,
        channels: int = 32,
        classes: int = 2,
        prefixed: bool = False,
    ) -> None:
        super().__init__()
        self.backbone = ResNet(blocks, width)
        self.query_embed = nn.Embedding(QUERIES, channels)
        self.input_proj = nn.Conv2d(self.backbone.channels[-1], channels, 1)
        self.position = SinePosition(channels)
        self.transformer = Transformer(channels, heads=2, feedforward=4 * channels)
        self.class_embed = nn.Linear(channels, classes)
        self.specific_embed = MLP(channels, 4)
        self.shared_embed = MLP(channels, 4)
        if not prefixed:
            use_official_keys(self, {f"backbone.{n}.": f"{n}." for n, _ in self.backbone.named_children()})

    def forward(self, x: Tensor) -> Heads:
        features = self.input_proj(self.backbone(x)[-1])
        position = self.position(features)
        queries = self.query_embed.weight.expand(len(x), -1, -1)
        states = self.transformer(features.flatten(2).transpose(1, 2), position, queries)
        specific = self.specific_embed(states)
        return {
            "classification": self.class_embed(states),
            "endpoints": specific[..., :2],
            "lane_terms": specific[..., 2:],
            "camera_terms": self.shared_embed(states).mean(dim=1, keepdim=True),
        }
