import torch
from torch import nn

from tuning.models.layer_mix import LayerMix
from tuning.models.mlp import MLP
from tuning.models.mlp_settings import MLPSettings


def mixed(num_layers=3):
    torch.manual_seed(0)
    return LayerMix(MLP(MLPSettings(), 4, 2), num_layers)


def test_the_model_reads_the_mean_that_the_weights_say():
    mix, features, num_frames = mixed(), torch.rand(5, 6, 12), torch.tensor([6, 1, 2, 3, 4])
    for logits in ([0.0, 0.0, 0.0], [1.0, -2.0, 0.5]):
        mix.layer_logits.data = torch.tensor(logits)
        shares = [torch.tensor(logits).exp()[layer] / torch.tensor(logits).exp().sum() for layer in range(3)]
        mean = sum(share * features[:, :, 4 * layer : 4 * layer + 4] for layer, share in enumerate(shares))
        torch.testing.assert_close(mix(features, num_frames), mix.model(mean, num_frames))


def test_the_layer_that_tells_the_classes_gets_the_largest_weight():
    mix, labels = mixed(), torch.arange(64) % 2
    features = torch.randn(64, 1, 12)
    features[:, 0, 4:8] = torch.nn.functional.one_hot(labels, 4) + 0.1 * torch.randn(64, 4)
    optimiser = torch.optim.Adam(mix.parameters(), lr=0.05)
    for _ in range(60):
        optimiser.zero_grad()
        nn.functional.cross_entropy(mix(features), labels).backward()
        optimiser.step()
    assert mix.layer_logits.argmax() == 1


def test_penalties_and_pretrained_weights_are_the_models():
    class Own(nn.Module):
        min_frames = 7

        def __init__(self):
            super().__init__()
            self.first, self.later = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1))

        def penalty(self):
            return self.first.square().sum()

        def encoder_parameters(self):
            return [self.first]

        def unfreezing(self):
            return [(3, [self.later])]

    own = Own()
    mix = LayerMix(own, 2)
    assert (mix.min_frames, mix.penalty().item()) == (7, 1.0)
    assert mix.encoder_parameters() == [own.first]
    assert mix.unfreezing() == [(3, [own.later])]
    assert LayerMix(nn.Identity(), 2).unfreezing() == []
