"""Conditional GAN of spectrograms: a generator and a discriminator, both given the labels."""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from tuning.models.gan_settings import GANSettings

HALVINGS = 16  # four layers of stride 2
LEAKY_SLOPE = 0.2
KEY_REDUCTION = 8  # channels of a map per channel of its queries and keys, as in SAGAN


class SpatialAttention(nn.Module):
    """Self-attention between all positions of a map [B, C, H, W], weighted by `gamma`, which starts at 0.

    y = x + gamma * W softmax(Q^T K) V with 1 x 1 convolutions Q and K to C/8 channels and V to C/2.
    Source: Zhang et al. 2019, "Self-Attention Generative Adversarial Networks", section 3.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        narrow, half = max(1, channels // KEY_REDUCTION), max(1, channels // 2)
        self.query = nn.Conv2d(channels, narrow, 1, bias=False)
        self.key = nn.Conv2d(channels, narrow, 1, bias=False)
        self.value = nn.Conv2d(channels, half, 1, bias=False)
        self.output = nn.Conv2d(half, channels, 1, bias=False)
        self.gamma = nn.Parameter(torch.zeros(()))

    def forward(self, maps: Tensor) -> Tensor:
        """Return the maps [B, C, H, W] with the attention's output added."""
        # [B, H * W, channels]; the paper does not scale the products
        query, key, value = (layer(maps).flatten(2).transpose(1, 2) for layer in (self.query, self.key, self.value))
        attended = F.scaled_dot_product_attention(query, key, value, scale=1.0)
        return maps + self.gamma * self.output(attended.transpose(1, 2).unflatten(2, maps.shape[2:]))


class Generator(nn.Module):
    """Spectrograms from noise and labels.

    The embedded labels are concatenated to the noise and projected to small maps, which four transposed convolutions
    enlarge sixteen times in both directions. Attention follows the first of them, where the map of a spectrogram of
    600 x 128 is 76 x 16, because its memory grows with the square of the number of positions. Initial weights have
    PyTorch's own distributions and come from torch's global generator: with those of DCGAN, N(0, 0.02), the labels
    would at first have almost no effect beside the noise. The layout is the documented one (docs/sources.md).
    """

    def __init__(self, settings: GANSettings, num_frames: int, num_features: int, num_conditions: int) -> None:
        super().__init__()
        self.num_frames, self.num_features = num_frames, num_features
        self.map_shape = (-(-num_frames // HALVINGS), -(-num_features // HALVINGS))
        units, channels = settings.condition_units, settings.channels
        self.embedding = nn.Sequential(nn.Linear(num_conditions, units), nn.ReLU(), nn.Linear(units, units), nn.ReLU())
        places = self.map_shape[0] * self.map_shape[1]
        self.projection = nn.Linear(settings.latent_dim + units, channels[0] * places)
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for width in channels)
        # Batch norm cancels a bias before it, which Adam would change by rounding errors alone.
        self.ups = nn.ModuleList(
            nn.ConvTranspose2d(a, b, 4, stride=2, padding=1, bias=b == 1) for a, b in pairwise([*channels, 1])
        )
        self.attention = SpatialAttention(channels[1])

    def forward(self, noise: Tensor, conditions: Tensor) -> Tensor:
        """Return spectrograms [B, T, F] between -1 and 1 for noise [B, latent_dim] and labels [B, K]."""
        joined = torch.cat([noise, self.embedding(conditions)], 1)
        maps = self.projection(joined).unflatten(1, (-1, *self.map_shape))
        for number, (norm, up) in enumerate(zip(self.norms, self.ups, strict=True)):
            maps = up(norm(maps).relu())
            if number == 0:
                maps = self.attention(maps)
        return maps[:, 0, : self.num_frames, : self.num_features].tanh()


class Discriminator(nn.Module):
    """Logit of whether a spectrogram with its labels is real.

    The embedded labels are a map of the spectrogram's size, its second channel. Spectral norm divides every weight by
    its largest singular value (Miyato et al. 2018), updated by one power iteration per forward pass in training. There
    is no batch norm: it would undo the spectral norm, and a batch may mix real and generated clips. The layout is the
    documented one (docs/sources.md).
    """

    def __init__(self, settings: GANSettings, num_frames: int, num_features: int, num_conditions: int) -> None:
        super().__init__()
        self.shape = (num_frames, num_features)
        self.padding = (-num_frames % HALVINGS, -num_features % HALVINGS)
        units, channels = settings.condition_units, settings.discriminator_channels
        self.embedding = nn.Sequential(
            spectral_norm(nn.Linear(num_conditions, units)),
            nn.LeakyReLU(LEAKY_SLOPE),
            spectral_norm(nn.Linear(units, num_frames * num_features)),
        )
        self.downs = nn.ModuleList(
            spectral_norm(nn.Conv2d(a, b, 4, stride=2, padding=1)) for a, b in pairwise([2, *channels])
        )
        places = -(-num_frames // HALVINGS) * -(-num_features // HALVINGS)
        self.output = spectral_norm(nn.Linear(channels[-1] * places, 1))

    def forward(self, spectrograms: Tensor, conditions: Tensor) -> Tensor:
        """Return logits [B], positive for real, of spectrograms [B, T, F] and labels [B, K]."""
        labels = self.embedding(conditions).unflatten(1, self.shape)
        maps = torch.stack([spectrograms, labels], 1)
        maps = F.pad(maps, (0, self.padding[1], 0, self.padding[0]))
        for down in self.downs:
            maps = F.leaky_relu(down(maps), LEAKY_SLOPE)
        return self.output(maps.flatten(1)).squeeze(1)
