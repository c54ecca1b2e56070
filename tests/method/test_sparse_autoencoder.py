"""TopK autoencoders: against loops, plain autograd, and on a planted dictionary."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from utils.method.dictionary_fit import fit_of
from utils.method.sparse_autoencoder import (
    AutoencoderTraining,
    TopKAutoencoder,
    loss_of,
    top_k,
    train_autoencoder,
)

SMALL = AutoencoderTraining(units=24, sparsity=3, epochs=3, batch_size=50, dead_after=200)


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def planted(number=4000, units=24, dimension=16, active=2):
    """Positions that are sums of two rows of a random dictionary, each times a number from 1 to 2."""
    generator = torch.Generator().manual_seed(1)
    atoms = F.normalize(torch.randn(units, dimension, generator=generator), dim=1)
    chosen = torch.rand(number, units, generator=generator).topk(active, dim=1).indices
    codes = torch.zeros(number, units).scatter(1, chosen, 1 + torch.rand(number, active, generator=generator))
    return codes @ atoms, atoms


@pytest.mark.parametrize("number", [1, 3, 7, 9])
def test_the_largest_positive_values_are_kept(number):
    values = normal(20, 7)
    kept = top_k(values, number)
    for row, of_row in zip(values.tolist(), kept.tolist(), strict=True):
        largest = sorted(row, reverse=True)[:number]
        assert of_row == [value if value in largest and value > 0 else 0 for value in row]


def test_codes_and_reconstruction_equal_loops():
    autoencoder = TopKAutoencoder(normal(7, 4), normal(7, 4, seed=1), normal(4, seed=2), sparsity=2)
    values = normal(5, 4, seed=3)
    codes = autoencoder.codes(values)
    for x, z, x_hat in zip(values, codes, autoencoder.reconstruct(codes), strict=True):
        pre = [sum((x - autoencoder.centre) * row).item() for row in autoencoder.encoder]
        active = sorted(range(7), key=lambda unit: -pre[unit])[:2]
        expected = torch.tensor([max(pre[unit], 0) if unit in active else 0 for unit in range(7)])
        torch.testing.assert_close(z, expected)
        by_hand = autoencoder.centre.clone()
        for unit in active:
            by_hand += expected[unit] * autoencoder.decoder[unit]
        torch.testing.assert_close(x_hat, by_hand)


def test_training_begins_at_random_rows_of_norm_1_with_the_encoder_equal_and_ends_with_them():
    values, _ = planted(300)
    start = train_autoencoder(values, replace(SMALL, learning_rate=0.0))
    torch.testing.assert_close(start.encoder, start.decoder)
    torch.testing.assert_close(start.centre, values.mean(0))
    trained = train_autoencoder(values, SMALL)
    for autoencoder in (start, trained):
        torch.testing.assert_close(autoencoder.decoder.norm(dim=1), torch.ones(24))
    assert not torch.allclose(trained.decoder, start.decoder, atol=0.01)
    assert torch.equal(train_autoencoder(values, SMALL).decoder, trained.decoder)
    assert not torch.equal(train_autoencoder(values, replace(SMALL, seed=1)).decoder, trained.decoder)


def test_a_step_lowers_the_loss_and_goes_down_the_gradient():
    values, _ = planted(50)
    one_step = replace(SMALL, epochs=1, learning_rate=1e-5)
    start = train_autoencoder(values, replace(one_step, learning_rate=0.0))
    after = train_autoencoder(values, one_step)
    encoder = start.encoder.clone().requires_grad_()
    scale = (values - values.mean(0)).square().mean().sqrt()
    centred = (values - values.mean(0)) / scale
    codes = torch.zeros(50, 24).scatter(1, *_largest(centred @ encoder.T, 3))
    (centred - codes @ start.decoder).square().mean().backward()
    moved = after.encoder - start.encoder
    large = encoder.grad.abs() > 1e-6  # Adam's first step goes by the sign
    assert torch.equal(moved[large].sign(), -encoder.grad[large].sign())
    assert fit_of(after, values).explained > fit_of(start, values).explained


def _largest(values, number):
    largest = values.topk(number, dim=1)
    return largest.indices, largest.values.relu()


def test_a_frozen_decoder_stays_and_the_encoder_learns():
    values, _ = planted(1000)
    start = train_autoencoder(values, replace(SMALL, learning_rate=0.0), frozen_decoder=True)
    frozen = train_autoencoder(values, SMALL, frozen_decoder=True)
    assert torch.equal(frozen.decoder, start.decoder) and not torch.equal(frozen.encoder, start.encoder)
    assert fit_of(start, values).explained < fit_of(frozen, values).explained
    assert fit_of(frozen, values).explained < fit_of(train_autoencoder(values, SMALL), values).explained


def test_a_planted_dictionary_is_found_and_not_by_a_frozen_decoder():
    values, atoms = planted()
    training = replace(SMALL, units=32, sparsity=2, epochs=60, learning_rate=1e-2)
    best = {
        frozen: (atoms @ train_autoencoder(values, training, frozen_decoder=frozen).decoder.T).amax(1)
        for frozen in (False, True)
    }
    assert (best[False] > 0.95).float().mean() > 0.8
    assert (best[True] > 0.95).float().mean() < 0.1


def test_fits_do_not_depend_on_the_scale_of_the_values():
    values, _ = planted(500)
    fits = [fit_of(train_autoencoder(scale * values, SMALL), scale * values) for scale in (1.0, 512.0)]
    assert fits[0].explained == pytest.approx(fits[1].explained, abs=1e-3)


def test_dead_units_learn_what_the_others_leave():
    encoder = normal(5, 4).requires_grad_()
    autoencoder = TopKAutoencoder(encoder, normal(5, 4, seed=1), normal(4, seed=2), sparsity=1)
    x = normal(6, 4, seed=3)
    dead = torch.tensor([True, False, True, False, True])
    codes = autoencoder.codes(x).detach()
    errors = x - autoencoder.reconstruct(codes)
    by_hand = 0.0
    for row, error in zip(x, errors, strict=True):
        pre = [float((row - autoencoder.centre) @ encoder[unit].detach()) for unit in (0, 2, 4)]
        used = sorted(range(3), key=lambda number: -pre[number])[:2]  # D / 2
        e_hat = sum(max(pre[number], 0) * autoencoder.decoder[2 * number] for number in used)
        by_hand += float(error.square().sum() + 0.25 * (error - e_hat).square().sum()) / x.numel()
    loss, active = loss_of(autoencoder, x, dead, 0.25)
    assert float(loss) == pytest.approx(by_hand, rel=1e-5)
    assert torch.equal(active, (codes > 0).any(0))
    never = dead & ~active
    gradients = {}
    for weight in (0.0, 0.25):
        loss, _ = loss_of(autoencoder, x, dead, weight)
        gradients[weight] = torch.autograd.grad(loss, encoder)[0][never].abs().sum()
    assert never.any() and gradients[0.0] == 0 and gradients[0.25] > 0
