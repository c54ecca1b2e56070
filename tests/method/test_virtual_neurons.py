"""PURE's virtual neurons: worked by hand."""

import torch

from utils.method.clustering import nearest
from utils.method.virtual_neurons import strongest_images, virtual_neurons

MAXIMA, CLUSTERS = torch.tensor([2.0, 0.0, 3.0, 2.0, 1.0]), torch.tensor([0, 1, 1, 1, 0], dtype=torch.int8)


def test_a_virtual_neuron_is_the_unit_where_its_centroid_is_nearest():
    assert virtual_neurons(MAXIMA, CLUSTERS, 3).tolist() == [[2, 0, 0, 0, 1], [0, 0, 3, 2, 0], [0, 0, 0, 0, 0]]


def test_the_strongest_images_of_a_unit_are_those_in_which_it_is_active():
    images, clusters = strongest_images(MAXIMA, CLUSTERS, 3)
    assert images.tolist() == [2, 0, 3] and clusters.tolist() == [1, 0, 1]
    assert strongest_images(MAXIMA, CLUSTERS, 10)[0].tolist() == [2, 0, 3, 4]


def test_the_nearest_of_several_sets_of_centroids():
    features = torch.tensor([[0.0, 0.0], [1.0, 1.0]])
    sets = torch.tensor([[[0.0, 0.4], [0.5, 1.0]], [[2.0, 2.0], [0.0, -0.1]]])
    assert nearest(features[None], sets).tolist() == [[0, 1], [1, 0]]
    assert nearest(features, sets[0]).tolist() == [0, 1]
