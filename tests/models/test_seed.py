"""The examples of the first versions' description run, completed where their text forgot something."""

from __future__ import annotations

import networkx as nx
import numpy as np
import torch

NAMES = {
    "deepstruct.sparse": [
        "MaskableModule", "MaskedLinearLayer", "MaskedDeepFFN", "MaskedDeepDAN", "DeepCellDAN", "maskable_layers",
        "maskable_layers_with_name", "prunable_layers", "prunable_layers_with_name", "CachedLayeredGraph",
    ],
    "deepstruct.graph": ["LayeredGraph", "CachedLayeredGraph", "LabeledDAG", "build_layer_index",
                         "uniform_proportions"],
    "deepstruct.recurrent": ["MaskedDeepRNN", "BaseRecurrentLayer", "MaskedRecurrentLayer", "MaskedGRULayer",
                             "MaskedLSTMLayer"],
    "deepstruct.pruning": ["engine", "strategy", "util"],
    "deepstruct.transform": ["GraphTransform", "LinearLayerFunctor", "Conv2dLayerFunctor", "ForgetfulFunctor"],
    "deepstruct.scalable": ["ScalableDeepFFN", "ScalableDAN"],
    "deepstruct.dataset": ["FuncDataset", "FunctionalDataset"],
    "deepstruct.models": ["MaskedDeepFFN", "MaskedDeepDAN", "DeepCellDAN"],
    "deepstruct.util": ["get_layer_count", "get_weight_distribution", "get_filtered_saliency", "entropy",
                        "kullback_leibler"],
}  # fmt: skip


def test_every_name_is_under_its_module() -> None:
    import importlib

    for module, names in NAMES.items():
        found = importlib.import_module(module)
        assert [name for name in names if not hasattr(found, name)] == []


def test_feed_forward_on_images() -> None:
    import deepstruct.sparse

    mnist_model = deepstruct.sparse.MaskedDeepFFN((1, 28, 28), 10, [100] * 10, use_layer_norm=True)
    for layer in deepstruct.sparse.maskable_layers(mnist_model):
        layer.mask[:, :] = True
    assert mnist_model(torch.rand(4, 1, 28, 28)).shape == (4, 10)
    layer.mask[0, :] = False
    out = mnist_model(torch.rand(4, 1, 28, 28))
    assert torch.equal(out[:, 0], mnist_model._layer_out.bias[0].expand(4))


def test_a_random_graph_as_a_network() -> None:
    import deepstruct.graph
    import deepstruct.sparse

    # Use networkx to generate a random graph based on the Watts-Strogatz model
    random_graph = nx.newman_watts_strogatz_graph(100, 4, 0.5)
    structure = deepstruct.graph.CachedLayeredGraph()
    structure.add_nodes_from(random_graph.nodes)
    structure.add_edges_from(random_graph.edges)

    # Build a neural network classifier with 784 input and 10 output neurons and the given structure
    model = deepstruct.sparse.MaskedDeepDAN(784, 10, structure)
    model.apply_mask()  # Apply the mask on the weights (hard, not undoable)
    model.recompute_mask()  # Use weight magnitude to recompute the mask from the network
    pruned_structure = model.generate_structure()  # Get the structure -- a networkx graph -- based on the current mask

    new_model = deepstruct.sparse.MaskedDeepDAN(784, 10, pruned_structure)
    assert new_model(torch.rand(2, 784)).shape == (2, 10)
    assert new_model.generate_structure().number_of_edges() == pruned_structure.number_of_edges() > 150


def test_a_feed_forward_network_as_a_graph() -> None:
    import deepstruct.sparse

    model = deepstruct.sparse.MaskedDeepFFN(784, 10, [100, 100])
    # .. train model
    graph = model.generate_structure()  # a networkx graph
    assert isinstance(graph, nx.DiGraph)
    assert (len(graph), graph.number_of_edges()) == (200, 10_000)


def test_an_artificial_landscape() -> None:
    from deepstruct.dataset import FuncDataset

    # Our artificial landscape: f: R^2 -> R
    def stier2020_b1d(x, y):
        return 20 + x - 1.8 * (y - 5) + 3 * np.sin(x + 2 * y) * y + (x / 4) ** 4 + (y / 4) ** 4

    ds_input_shape = (2,)  # specify the number of input dimensions

    # Explicitly define the target function for the dataset which returns a numpy array of our above function
    def fn_target(x):
        return np.array([stier2020_b1d(x[0], x[1])])

    # Define a sampling strategy for the dataset, e.g. uniform sampling the space
    def fn_sampler():
        return np.random.uniform(-2, 2, size=ds_input_shape)

    ds_train = FuncDataset(fn_target, shape_input=ds_input_shape, size=500, sampler=fn_sampler)
    ds_output_shape = fn_target(fn_sampler()).shape
    assert ds_output_shape == (1,)
    batch_size = 100
    train_sampler = torch.utils.data.SubsetRandomSampler(np.arange(len(ds_train), dtype=np.int64))
    train_loader = torch.utils.data.DataLoader(
        ds_train, batch_size=batch_size, sampler=train_sampler, num_workers=2
    )
    seen = 0
    for feat, target in train_loader:
        assert (feat.shape, target.shape) == ((100, 2), (100, 1))
        torch.testing.assert_close(target[0, 0], torch.as_tensor(fn_target(feat[0].numpy())[0]))
        seen += len(feat)
    assert seen == 500
