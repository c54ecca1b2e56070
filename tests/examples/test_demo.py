"""The demonstration: its pictures, its weights, the whole of it end to end, and the right answer."""

from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.ground_truth import evaluate, find_pairs, record_layer, split_every_way
from benchmarks.small_vit import SmallViT
from examples.demo.network import TRANSFORM, DemoNetwork, demo_network
from examples.demo.pictures import CONCEPTS, SIZE, draw, write_pictures
from examples.demo.training import augment, read_pictures, save_weights, train
from tests.demonstration import run_in
from utils.networks.layers import find_layer
from utils.networks.splitting import with_splits

STORED = Path(__file__).with_name("demo_pictures.npz")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    write_pictures(folder, train=12, val=8)
    return folder


def test_pictures_are_the_same_everywhere():
    """One of each concept, stored by ``np.savez_compressed(STORED, pictures=...)``; rounding may differ a little."""
    stored = np.load(STORED)["pictures"]
    assert len(stored) == len(CONCEPTS) == 30
    for index, name in enumerate(CONCEPTS):
        difference = np.abs(draw(name, 0, index, 0).astype(int) - stored[index])
        assert difference.max() <= 1, name
        assert (difference > 0).any(-1).mean() <= 1e-3, name


def test_equal_seeds_make_equal_pictures_and_others_do_not():
    assert np.array_equal(draw("star", 0, 1, 2), draw("star", 0, 1, 2))
    assert not np.array_equal(draw("star", 0, 1, 2), draw("star", 0, 1, 3))
    assert draw("star", 0, 1, 2).shape == (64, 64, 3)


def test_the_outputs_are_in_the_order_of_the_folders(pictures):
    assert list(CONCEPTS) == sorted(path.name for path in (pictures / "train").iterdir())
    assert len(list((pictures / "val" / "waves").iterdir())) == 8


def test_pictures_that_are_there_are_left_alone(pictures):
    path = pictures / "train" / "star" / "000.png"
    before = path.stat().st_mtime_ns
    write_pictures(pictures, train=12, val=8)
    assert path.stat().st_mtime_ns == before


def test_the_committed_weights_classify_the_pictures(pictures):
    pixels, targets = read_pictures(pictures / "val")
    network = demo_network().eval().requires_grad_(False)
    record = record_layer(network, find_layer(network, "last", SIZE), (pixels, targets))
    assert (record["predictions"] == targets).float().mean() > 0.95


def test_augmentation_keeps_the_values_of_a_picture():
    pixels = torch.from_numpy(np.stack([draw("star", 0, 0, number) for number in range(8)]))
    inverted, seen = 0, augment(pixels, torch.Generator().manual_seed(0))
    assert seen.shape == (8, 3, 64, 64)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    restored = (seen.permute(0, 2, 3, 1) * std + mean).mul(255).round()
    for before, after in zip(pixels, restored, strict=True):
        values = [before.sum(-1).flatten().sort()[0], (255 - before.int()).sum(-1).flatten().sort()[0]]
        same = [torch.equal(value.float(), after.sum(-1).flatten().sort()[0]) for value in values]
        assert any(same)
        inverted += same[1]
    assert 0 < inverted < 8


def arithmetic():
    """What is set for the whole process: threads, whether denormal numbers are kept, and what is drawn next."""
    return torch.get_num_threads(), (torch.tensor(1e-39) * 1).item(), torch.get_rng_state().tolist()


def test_training_learns_and_its_weights_can_be_read(pictures, tmp_path, monkeypatch):
    monkeypatch.setattr("examples.demo.training.THREADS", 1)  # the other core is another test's
    torch.manual_seed(0)
    pixels, targets = read_pictures(pictures / "train")
    untrained = DemoNetwork().eval().requires_grad_(False)
    before = arithmetic()
    network = train(pictures, epochs=10)
    assert arithmetic() == before and before[1] > 0
    assert not network.expand._forward_hooks
    losses = []
    for candidate in (untrained, network):
        images = augment(pixels, torch.Generator().manual_seed(1))
        losses.append(torch.nn.functional.cross_entropy(candidate(images), targets).item())
    assert losses[1] < losses[0] - 0.05
    save_weights(network, tmp_path / "weights.pth")
    monkeypatch.setattr("examples.demo.network.WEIGHTS", tmp_path / "weights.pth")
    torch.testing.assert_close(demo_network().last.weight, network.last.weight, rtol=1e-3, atol=1e-4)


def test_a_small_transformer_is_split_in_a_linear_layer_over_tokens(pictures):
    """An untrained one: its tokens lie in a grid, and a split of it changes nothing."""
    torch.manual_seed(0)
    network = SmallViT().eval().requires_grad_(False)
    layer = find_layer(network, "last", SIZE)
    assert (layer.kind, layer.map_size, layer.num_positions) == ("linear layer", (8, 8), 64)
    pixels, targets = read_pictures(pictures / "val")
    record = record_layer(network, layer, (pixels[:8], targets[:8]))
    means = record["input_sums"].double().view(2, 4, 96, 1).mean(1)
    images = TRANSFORM.normalise(pixels[:8], torch.device("cpu"))
    for _, split in split_every_way(layer, {**record, "targets": torch.arange(8) // 4}, 3, (0, 1), means):
        changed = with_splits(network, "last", [split])
        torch.testing.assert_close(changed(images), network(images), rtol=1e-4, atol=1e-6)


def test_splits_are_right_where_the_right_answer_is_known(pictures):
    network = demo_network().eval().requires_grad_(False)
    layer = find_layer(network, "last", SIZE)
    training, validation = (record_layer(network, layer, read_pictures(pictures / part)) for part in ("train", "val"))
    pairs, means = find_pairs(layer, training)
    assert len(pairs) > 200
    figures = []
    for channel, class1, class2, _ in pairs[::-1][:60]:  # of lowest cosine
        ways = dict(split_every_way(layer, training, channel, (class1, class2), means))
        figures.append(evaluate(ways["positive"], validation))
    measured, clean_of_all, clean, separation, original, own, other = np.nanmean(figures, axis=0)
    assert len(figures) == 60
    assert measured > 0.4
    assert clean_of_all > 0.9 * measured
    assert clean > 0.9
    assert separation > 0.98 > 0.95 > original
    assert own > 1 > 0 > other


def test_the_demonstration_runs_end_to_end_and_a_second_time_reuses_everything(demonstration, demonstrated):
    """demo.sh itself, in a copy of the project whose environment is the one of the tests, and from another folder."""
    for script in ("get_importances_for_classes", "get_cosine_similarities", "disentangle_channel", "get_results"):
        assert f"\n$ python {script}.py --" in demonstration.printed
    assert "donut / waves" in demonstration.printed
    assert "figures: demo_output/plots" in demonstration.printed
    assert demonstration.made == {"demo_output"}
    output = demonstrated / "demo_output"
    assert len(list((output / "plots").glob("*_top_pictures.png"))) == 3
    split = next((output / "store" / "models_disentangled").iterdir())
    made = split.stat().st_mtime_ns
    second = run_in(demonstrated, "sh", "-c", "cd examples && sh ../demo.sh", figures="empty")
    assert second.returncode == 0, second.stderr
    assert split.stat().st_mtime_ns == made
    assert "$ python disentangle_channel.py" not in second.stdout
    assert second.stdout.count("reusing") >= 10
    page = "demo_output/report/examples.demo-demo_network/index.html"
    assert (demonstrated / page).is_file()
    assert all(f"open {page}\n" in printed for printed in (demonstration.printed, second.stdout))
