"""Modules that the real checkpoints of this folder fit into: the architectures, in our own words."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F


class FaceStage(nn.Module):
    """One stage of a cascade of small convolutional face detectors.

    Args:
        convolutions: (channels, kernel, pooling kernel or 0) of each convolution; pools have stride 2 and
            keep the last, incomplete window.
        dense: (name, features in, features out) of a fully connected layer before the heads, or None.
        heads: name -> outputs. The first one is a softmax over two classes.
    """

    def __init__(
        self,
        convolutions: Sequence[tuple[int, int, int]],
        dense: tuple[int, int, int] | None,
        heads: dict[str, int],
    ) -> None:
        super().__init__()
        channels, self.depth = 3, len(convolutions)
        self.heads = list(heads)
        for k, (width, kernel, pool) in enumerate(convolutions, 1):
            self.add_module(f"conv{k}", nn.Conv2d(channels, width, kernel))
            self.add_module(f"prelu{k}", nn.PReLU(width))
            self.add_module(f"pool{k}", nn.MaxPool2d(pool, 2, ceil_mode=True) if pool else nn.Identity())
            channels = width
        self.dense = None
        if dense is not None:
            number, before, channels = dense
            self.dense = number
            self.add_module(f"dense{number}", nn.Linear(before, channels))
            self.add_module(f"prelu{number}", nn.PReLU(channels))
        for name, outputs in heads.items():
            self.add_module(name, nn.Conv2d(channels, outputs, 1) if dense is None else nn.Linear(channels, outputs))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        for k in range(1, self.depth + 1):
            for part in ("conv", "prelu", "pool"):
                x = self.get_submodule(f"{part}{k}")(x)
        if self.dense is not None:
            x = x.permute(0, 3, 2, 1).flatten(1)  # the weights were trained on (width, height, channel)
            x = self.get_submodule(f"prelu{self.dense}")(self.get_submodule(f"dense{self.dense}")(x))
        first, *others = (self.get_submodule(name)(x) for name in self.heads)
        return first.softmax(1), *others


def pnet() -> FaceStage:
    return FaceStage([(10, 3, 2), (16, 3, 0), (32, 3, 0)], None, {"conv4_1": 2, "conv4_2": 4})


def rnet() -> FaceStage:
    return FaceStage([(28, 3, 3), (48, 3, 3), (64, 2, 0)], (4, 576, 128), {"dense5_1": 2, "dense5_2": 4})


def onet() -> FaceStage:
    heads = {"dense6_1": 2, "dense6_2": 4, "dense6_3": 10}
    return FaceStage([(32, 3, 3), (64, 3, 3), (64, 3, 2), (128, 2, 0)], (5, 1152, 256), heads)


class PitchNet(nn.Module):
    """Six convolutions along 1,024 samples of audio, and one linear layer over 360 pitches."""

    kernels, strides = (512, 64, 64, 64, 64, 64), (4, 1, 1, 1, 1, 1)
    paddings = ((254, 254), *((31, 32),) * 5)

    def __init__(self, widths: Sequence[int] = (128, 16, 16, 16, 32, 64)) -> None:
        super().__init__()
        channels = 1
        for k, width in enumerate(widths):
            conv = nn.Conv2d(channels, width, (self.kernels[k], 1), (self.strides[k], 1))
            self.add_module(f"conv{k + 1}", conv)
            self.add_module(f"conv{k + 1}_BN", nn.BatchNorm2d(width, eps=1e-3))
            channels = width
        self.classifier = nn.Linear(4 * channels, 360)

    def forward(self, audio: torch.Tensor) -> torch.Tensor:
        x = audio[:, None, :, None]
        for k, (before, after) in enumerate(self.paddings, 1):
            x = self.get_submodule(f"conv{k}")(F.pad(x, (0, 0, before, after)))
            x = F.max_pool2d(self.get_submodule(f"conv{k}_BN")(x.relu()), (2, 1), (2, 1))
        return self.classifier(x.permute(0, 2, 1, 3).flatten(1)).sigmoid()


class VoiceEncoder(nn.Module):
    """Three LSTM layers over mel frames, and a linear layer on the last hidden state, normalised."""

    def __init__(self) -> None:
        super().__init__()
        self.similarity_weight = nn.Parameter(torch.ones(1))  # of the loss that it was trained with
        self.similarity_bias = nn.Parameter(torch.zeros(1))
        self.lstm = nn.LSTM(40, 256, 3, batch_first=True)
        self.linear = nn.Linear(256, 256)

    def forward(self, mels: torch.Tensor) -> torch.Tensor:
        _, (hidden, _) = self.lstm(mels)
        return F.normalize(self.linear(hidden[-1]).relu(), dim=1)


class VoiceDetector(nn.Module):
    """A short-time spectrum as a convolution, four convolutions, one step of an LSTM, and a probability."""

    def __init__(self) -> None:
        super().__init__()
        self.stft_conv = nn.Conv1d(1, 258, 256, stride=128, bias=False)
        self.conv1 = nn.Conv1d(129, 128, 3, padding=1)
        self.conv2 = nn.Conv1d(128, 64, 3, stride=2, padding=1)
        self.conv3 = nn.Conv1d(64, 64, 3, stride=2, padding=1)
        self.conv4 = nn.Conv1d(64, 128, 3, padding=1)
        self.lstm_cell = nn.LSTMCell(128, 128)
        self.final_conv = nn.Conv1d(128, 1, 1)

    def forward(self, audio: torch.Tensor, hidden: torch.Tensor, cell: torch.Tensor) -> tuple[torch.Tensor, ...]:
        x = self.stft_conv(F.pad(audio, (0, 64), "reflect").unsqueeze(1))
        real, imaginary = x[:, :129], x[:, 129:]
        x = (real**2 + imaginary**2).sqrt()
        for conv in (self.conv1, self.conv2, self.conv3, self.conv4):
            x = conv(x).relu()
        hidden, cell = self.lstm_cell(x.squeeze(-1), (hidden, cell))
        return self.final_conv(hidden.unsqueeze(-1).relu()).sigmoid().squeeze(1).mean(1), hidden, cell
