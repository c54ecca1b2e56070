"""Networks and weights from names, files and factories."""

import shutil
import sys
import warnings
from pathlib import Path
from urllib.parse import urlparse

import pytest
import torch
import torchvision

from tests import factories
from utils.errors import UserError
from utils.images.transform import Transform
from utils.networks.loading import fingerprint, load_network, named_network
from utils.networks.model_names import model_name
from utils.networks.precision import check_precision, choose_device, network_arithmetic
from utils.store.files import run_name


@pytest.fixture(scope="module")
def resnet18(tmp_path_factory):
    """A state dict of torchvision's resnet18 with 7 outputs."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "resnet18.pth"
    torch.save(torchvision.models.resnet18(num_classes=7).state_dict(), path)
    return path


def same_output(one, other):
    x = torch.randn(1, 3, 32, 32)
    return torch.allclose(one.eval()(x), other.eval()(x), atol=1e-6)


def test_a_local_file_gives_the_number_of_classes(resnet18):
    network = load_network("resnet18", str(resnet18))
    reference = torchvision.models.resnet18(num_classes=7)
    reference.load_state_dict(torch.load(resnet18))
    assert same_output(network.module, reference)
    assert not network.module.training
    assert not any(parameter.requires_grad for parameter in network.module.parameters())
    assert network.weights == "resnet18.pth"
    assert network.transform == Transform()


@pytest.mark.parametrize("wrap", [lambda state: {"model": state, "epoch": 3}, lambda state: {"state_dict": state}])
def test_checkpoints_half_precision_and_dataparallel_are_understood(resnet18, tmp_path, wrap):
    state = {f"module.{name}": value.half() for name, value in torch.load(resnet18).items()}
    torch.save(wrap(state), tmp_path / "checkpoint.pth")
    network = load_network("resnet18", str(tmp_path / "checkpoint.pth")).module
    assert network.fc.weight.dtype == torch.float32
    torch.testing.assert_close(network.fc.weight, torch.load(resnet18)["fc.weight"], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ["googlenet", "mobilenet_v3_small", "densenet121", "squeezenet1_1"])
def test_the_number_of_classes_is_found_whatever_the_classifier_is_called(name, tmp_path):
    options = {"init_weights": False, "aux_logits": True} if name == "googlenet" else {}
    original = torchvision.models.get_model(name, num_classes=6, **options)
    torch.save(original.state_dict(), tmp_path / "weights.pth")
    network = load_network(name, str(tmp_path / "weights.pth"))
    assert network.fingerprint == fingerprint(original)
    assert network.module(torch.zeros(1, 3, 64, 64)).shape == (1, 6)


def test_named_weights_are_read_from_torchs_cache(monkeypatch, tmp_path):
    weights = torchvision.models.ResNet18_Weights.IMAGENET1K_V1
    file = tmp_path / "checkpoints" / Path(urlparse(weights.url).path).name
    file.parent.mkdir()
    original = torchvision.models.resnet18()
    torch.save(original.state_dict(), file)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    network = load_network("resnet18")
    assert network.fingerprint == fingerprint(original)
    assert network.weights == "IMAGENET1K_V1"
    assert network.transform == Transform(256, 224, "bilinear", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(UserError, match=f"{file.name} is damaged.*delete it"):
        load_network("resnet18")


def test_without_weights_and_network_the_message_names_file_and_place(monkeypatch, tmp_path):
    def no_network(*_, **__):
        raise OSError("no route to host")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", no_network)
    with pytest.raises(UserError, match=rf"no weights file {tmp_path}.*resnet18-.*\.pth.*put https://.* there"):
        load_network("resnet18")


def test_the_default_weights_are_the_papers_where_there_are_such(monkeypatch):
    asked = []
    real = torchvision.models.get_model

    def get_model(name, weights=None, **options):
        asked.append(weights.name)
        return real(name, weights=None, **options)

    monkeypatch.setattr(torchvision.models, "get_model", get_model)
    assert load_network("resnet50").weights == "IMAGENET1K_V1"
    assert load_network("resnet50", "IMAGENET1K_V2").transform.resize_size == 232
    assert asked == ["IMAGENET1K_V1", "IMAGENET1K_V2"]
    assert named_network("vit_h_14").are_default_weights("IMAGENET1K_SWAG_E2E_V1")


def test_a_factory_brings_its_own_weights_unless_others_are_given(tmp_path):
    network = load_network("tests.factories:small")
    assert network.fingerprint == fingerprint(factories.small())
    torch.save(factories.other_weights().state_dict(), tmp_path / "other.pth")
    other = load_network("tests.factories:small", str(tmp_path / "other.pth"))
    assert other.fingerprint == fingerprint(factories.other_weights()) != network.fingerprint


def test_the_fingerprint_depends_on_values_and_not_on_memory_format():
    network = factories.with_kernel()
    before = fingerprint(network)
    assert fingerprint(network.to(memory_format=torch.channels_last)) == before
    network.head[0].running_mean[0] += 1e-6
    assert fingerprint(network) != before


@pytest.mark.parametrize(
    ("model", "weights", "message"),
    [
        ("resnet51", None, "neither a torchvision classification network"),
        ("fcn_resnet50", None, "neither a torchvision classification network"),
        ("resnet18", "IMAGENET1K_V9", "neither a file nor one of resnet18's weights .IMAGENET1K_V1"),
        ("nowhere.at_all:make", None, "there is no module nowhere in the current folder"),
        ("tests.factories:smal", None, "tests.factories has no function smal; similar: small"),
        ("tests.factories:not_a_module", None, "returned a str"),
        ("tests.factories:small", "nowhere.pth", "there is no such file"),
    ],
)
def test_unknown_models_and_weights_are_refused(model, weights, message):
    with pytest.raises(UserError, match=message):
        load_network(model, weights)


def test_the_nearest_networks_are_named_among_them_functions_in_files_of_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text("1 / 0\n\ndef lite1():\n    pass\n")
    (tmp_path / "broken.py").write_text("def lite1(:\n")
    with pytest.raises(UserError, match=r"file.py:function; similar: mine:lite1$"):
        load_network("lite1")
    with pytest.raises(UserError, match="similar: resnet50, resnet"):
        load_network("resnet500")
    with pytest.raises(UserError, match=r"file.py:function$"):
        load_network("qqqq")


def test_weights_that_do_not_fit_are_refused(resnet18, tmp_path):
    for model in ("resnet50", "vgg11", "tests.factories:small"):
        with pytest.raises(UserError, match="does not fit"):
            load_network(model, str(resnet18))
    damaged = tmp_path / "damaged.pth"
    shutil.copy(resnet18, damaged)
    damaged.write_bytes(damaged.read_bytes()[:5000])
    with pytest.raises(UserError, match="damaged or no state dict"):
        load_network("resnet18", str(damaged))
    torch.save([1, 2], damaged)
    with pytest.raises(UserError, match="no state dict"):
        load_network("resnet18", str(damaged))


def test_devices_and_precisions_that_are_not_there_are_refused():
    assert choose_device("cpu") == torch.device("cpu")
    for device in ("meta", "nonsense", "cuda:99"):
        with pytest.raises(UserError, match=f"--device {device}"):
            choose_device(device)
    with pytest.raises(UserError, match="tf32 needs a CUDA device"):
        check_precision("tf32", torch.device("cpu"))


def test_precisions_are_for_the_network_alone():
    layer, x = torch.nn.Conv2d(3, 4, 1), torch.randn(1, 3, 4, 4)
    cpu = torch.device("cpu")

    def tf32():
        return torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32

    torch.backends.cudnn.deterministic = False
    check_precision("bf16", cpu)
    assert torch.backends.cudnn.deterministic
    for precision, dtype, expected in (
        ("fp32", torch.float32, (False, False)),
        ("bf16", torch.bfloat16, (False, False)),
        ("tf32", torch.float32, (True, True)),
    ):
        with network_arithmetic(precision, cpu):
            assert layer(x).dtype == dtype
            assert tf32() == expected
        assert layer(x).dtype == torch.float32
        assert tf32() == (False, False)


def test_extra_state_of_a_module_is_part_of_the_fingerprint():
    class WithState(torch.nn.Linear):
        def get_extra_state(self):
            return {"a": 1}

    assert fingerprint(WithState(2, 2)) != fingerprint(torch.nn.Linear(2, 2))


FILE = """
from beside import NUMBER
from torch import nn

def network():
    return nn.Linear(NUMBER, 2)
"""


def test_a_factory_is_found_by_its_file_with_what_lies_beside_it(tmp_path, monkeypatch):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "torch.py").write_text(FILE)  # even where another module has its name
    (tmp_path / "folder" / "beside.py").write_text("NUMBER = 3")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    torch.manual_seed(0)
    network = load_network("folder/torch.py:network")
    torch.manual_seed(0)
    assert load_network(f"{tmp_path}/folder/../folder/torch.py:network").fingerprint == network.fingerprint
    assert network.module.in_features == 3 and network.weights == "the factory's own"
    assert sys.modules["torch"] is torch


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("nets/none.py:make", "--model nets/none.py:make: there is no file nets/none.py"),
        ("data/net.py:other", r"--model data/net.py:other: data/net.py has no function other; it has make$"),
        ("data/raises.py:make", r"--model data/raises.py:make cannot be made \(AttributeError: "),
        ("data/empty.py:make", "data/empty.py has no function make; it has none$"),
        ("net:make", "there is no module net in the current folder, .*: give its file, --model path/to/net.py:make"),
        ("needs:make", r"--model needs:make cannot be made \(ModuleNotFoundError: No module named 'nonesuch'"),
    ],
)
def test_a_factory_that_is_not_there_is_one_line_that_says_where_it_was_looked_for(
    model, message, tmp_path, monkeypatch
):
    """A module in the data folder is not found unless the file is named."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "net.py").write_text("from torch import nn\n\nLinear = nn.Linear\n\ndef make():\n    pass\n")
    (tmp_path / "data" / "raises.py").write_text("def make():\n    None.make\n")
    (tmp_path / "data" / "empty.py").write_text("")
    (tmp_path / "needs.py").write_text("import nonesuch\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    with pytest.raises(UserError, match=message):
        load_network(model)


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("resnet50", "resnet50"),
        ("package.module:function", "package.module:function"),
        ("timm:resnet50.a1_in1k", "timm:resnet50.a1_in1k"),
        ("module.py:function", "module:function"),
        ("../a b/module.py:function", "module:function"),
        ("/x/y.z.py:f", "y.z:f"),
    ],
)
def test_a_store_knows_a_factory_by_the_stem_of_its_file(model, name):
    assert model_name(model) == name and run_name(model, "last_conv") == name.replace(":", "-")


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("name", ["regnet_y_400mf", "mnasnet0_5"])
def test_networks_that_compute_while_they_are_made_or_ask_for_a_version(name, prefix, tmp_path):
    """RegNet cannot be made on the meta device; MNASNet reads the version of a state dict, which travels beside it."""
    torch.manual_seed(0)
    original = torchvision.models.get_model(name, num_classes=3)
    saved = torch.nn.DataParallel(original) if prefix else original
    torch.save(saved.state_dict(), tmp_path / "weights.pth")
    network = load_network(name, str(tmp_path / "weights.pth"))
    assert network.fingerprint == fingerprint(original)


def test_a_prefix_is_taken_off_only_where_all_names_have_it(tmp_path, monkeypatch):
    class Inner(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.module, self.other = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)

    monkeypatch.setattr(factories, "inner", Inner, raising=False)
    original = Inner()
    torch.save(original.state_dict(), tmp_path / "weights.pth")
    assert load_network("tests.factories:inner", str(tmp_path / "weights.pth")).fingerprint == fingerprint(original)


def scripted(path):
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), path)


@pytest.mark.filterwarnings("ignore:.*torch.jit", "ignore:.*quantize", "ignore:.*deprecated")
@pytest.mark.parametrize(
    ("save", "message"),
    [
        (lambda path: torch.save({"a": torch.ones(2).to(torch.complex64)}, path), "a is no ordinary tensor.*complex64"),
        (lambda path: torch.save({"a": torch.eye(2).to_sparse()}, path), "a is no ordinary tensor.*sparse_coo"),
        (
            lambda path: torch.save({"a": torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8)}, path),
            "a is no ordinary tensor.*qint8",
        ),
        (lambda path: torch.save({"a": [1]}, path, pickle_protocol=4), "damaged or no state dict|no state dict"),
        (scripted, "damaged or no state dict"),
        (
            lambda path: torch.save(factories.small(), path),
            r"is a pickled object, not a state dict: save its state_dict",
        ),
    ],
)
def test_state_dicts_of_other_kinds_are_one_line_without_warnings(save, message, tmp_path):
    save(tmp_path / "weights.pth")
    with warnings.catch_warnings(record=True) as caught, pytest.raises(UserError, match=message) as raised:
        warnings.simplefilter("always")
        load_network("tests.factories:small", str(tmp_path / "weights.pth"))
    assert not caught
    assert "\n" not in str(raised.value)


class Lazy(torch.nn.Sequential):
    def __init__(self):
        super().__init__(torch.nn.LazyConv2d(4, 1))


class RefusesEval(torch.nn.Linear):
    def eval(self):
        raise ZeroDivisionError("not\nfinished")


class RefusesState(torch.nn.Linear):
    def state_dict(self, *args, **kwargs):
        raise ZeroDivisionError("not\nfinished")


def raises():
    raise ZeroDivisionError("not\nfinished")


@pytest.mark.filterwarnings("ignore:Lazy modules")
@pytest.mark.parametrize(
    ("factory", "message"),
    [
        (raises, r"cannot be made \(ZeroDivisionError: not finished\)"),
        (Lazy, "cannot be used .*uninitialized"),
        (lambda: RefusesEval(2, 2), r"cannot be used \(ZeroDivisionError: not finished\)"),
        (lambda: RefusesState(2, 2), r"cannot be used \(ZeroDivisionError: not finished\)"),
    ],
)
def test_whatever_a_factorys_network_raises_is_one_line(factory, message, monkeypatch):
    monkeypatch.setattr(factories, "made_here", factory, raising=False)
    with pytest.raises(UserError, match=message) as raised:
        load_network("tests.factories:made_here")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("options", [{"transform_input": True, "aux_logits": False}, {"aux_logits": True}], ids=str)
def test_lines_make_the_architecture_of_a_network(options):
    with torch.device("meta"):
        network = torchvision.models.googlenet(num_classes=5, init_weights=False, **options)
        names = {}
        exec("\n".join(named_network("googlenet").lines_that_make(network)), names)
    made = names["network"]
    assert {name: value.shape for name, value in made.state_dict().items()} == {
        name: value.shape for name, value in network.state_dict().items()
    }
    assert made.transform_input == options.get("transform_input", False)
