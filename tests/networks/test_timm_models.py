"""Networks of timm: by a small stand-in for timm, and by timm itself where it is installed."""

import sys
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace

import pytest
import torch
from PIL import Image
from torch import nn

from utils.errors import UserError
from utils.images.transform import Transform
from utils.networks.embedder import load_embedder
from utils.networks.loading import fingerprint, load_network, named_network

CONFIGURATION = {
    "input_size": (3, 64, 64),
    "interpolation": "bicubic",
    "mean": (0.5, 0.5, 0.5),
    "std": (0.25, 0.25, 0.25),
    "crop_pct": 0.9,
    "crop_mode": "center",
}
TAGS = {"small": "a1_in1k", "small.b2_in21k": "b2_in21k", "other": "c1_in1k"}
WITHOUT_WEIGHTS = "bare"
UNCONFIGURED = "unconfigured"  # listed, without a configuration of pretrained weights


class Small(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.num_classes = num_classes
        self.conv = nn.Conv2d(3, 4, 3)
        self.head = nn.Linear(4, num_classes)

    def forward(self, images):
        return self.head(self.conv(images).mean((2, 3)))


def checkpoint_filter_fn(state, network):
    """Names of the authors' files, as timm's modules convert them."""
    return {name.replace("stem", "conv"): value for name, value in state.items()}


class Hub(ModuleType):
    """A stand-in for huggingface_hub: one file in its cache, or none and no network."""

    class EntryNotFoundError(Exception):
        pass

    def __init__(self):
        super().__init__("huggingface_hub")
        self.constants = SimpleNamespace(HF_HUB_CACHE="cache")
        self.errors = SimpleNamespace(EntryNotFoundError=self.EntryNotFoundError)
        self.file = None
        self.reached = []

    def try_to_load_from_cache(self, repository, name, *, revision):
        return (
            str(self.file) if self.file is not None and (repository, name) == ("timm/small", self.file.name) else None
        )

    def hf_hub_url(self, repository, name, *, revision):
        return f"{repository}/{name}"

    def get_hf_file_metadata(self, url, *, timeout):
        self.reached.append(url)
        if url.endswith(".safetensors"):
            raise self.EntryNotFoundError
        raise OSError("Name or service not known\nand more")


@pytest.fixture
def timm(monkeypatch):
    """A stand-in for timm, and as its attribute ``hub`` one for huggingface_hub; ``configuration`` can be changed."""
    module = ModuleType("timm")
    module.__spec__ = ModuleSpec("timm", None)
    module.__version__ = "1.0"
    module.hub = Hub()
    module.configuration = dict(CONFIGURATION)
    names = [*TAGS, WITHOUT_WEIGHTS, UNCONFIGURED]

    def list_models(pretrained=False):
        return [f"{name.split('.')[0]}.{tag}" for name, tag in TAGS.items()] if pretrained else names

    def get_pretrained_cfg(name):
        outputs = 21841 if "21k" in TAGS.get(name, "") else 1000
        described = {"classifier": "head", "num_classes": outputs, "tag": TAGS.get(name, "")}
        described |= {"hf_hub_id": "timm/small", "hf_hub_filename": None, "has_weights": name != WITHOUT_WEIGHTS}
        return None if name == UNCONFIGURED else SimpleNamespace(**described, custom_load=True)

    def create_model(name, pretrained=False, pretrained_cfg_overlay=None, num_classes=None):
        network = Small(num_classes or get_pretrained_cfg(name).num_classes)
        if pretrained:
            # a file of the hub has timm's format, one at a URL that of the network's authors
            assert pretrained_cfg_overlay["custom_load"] == (module.get_pretrained_cfg(name).hf_hub_id is None)
            network.load_state_dict(torch.load(pretrained_cfg_overlay["file"]))
        return network

    module.list_models, module.get_pretrained_cfg, module.create_model = list_models, get_pretrained_cfg, create_model
    module.data = SimpleNamespace(resolve_model_data_config=lambda network: module.configuration)
    monkeypatch.setitem(sys.modules, "timm", module)
    monkeypatch.setitem(sys.modules, "huggingface_hub", module.hub)
    return module


@pytest.fixture
def weights(tmp_path):
    """The state dict of a Small with 7 outputs."""
    torch.save(Small(7).state_dict(), tmp_path / "mine.pth")
    return str(tmp_path / "mine.pth")


def test_without_timm_the_message_names_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(UserError, match=r"--model timm:small needs timm: pip install timm"):
        load_network("timm:small")
    with pytest.raises(UserError, match=r"file.py:function$"):
        load_network("qqqq")


def test_a_file_of_weights_gives_the_number_of_classes_and_timm_the_transform(timm, weights):
    loaded = load_network("timm:small", weights)
    assert loaded.module.head.out_features == 7
    assert loaded.weights == "mine.pth" and not named_network("timm:small").are_default_weights(loaded.weights)
    assert loaded.transform == Transform(71, 64, "bicubic", (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    assert not loaded.transform_is_assumed and not loaded.transform_note and not loaded.has_imagenet_classes


def test_names_of_the_authors_files_are_converted_as_timm_does_it(timm, weights, tmp_path):
    state = torch.load(weights)
    torch.save({name.replace("conv", "stem"): value for name, value in state.items()}, tmp_path / "theirs.pth")
    original = load_network("timm:small", weights)
    assert load_network("timm:small", str(tmp_path / "theirs.pth")).fingerprint == original.fingerprint
    torch.save({"other": torch.ones(2), "head.weight": torch.tensor(1.0)}, tmp_path / "other.pth")
    with pytest.raises(UserError, match=r"other.pth does not fit the network: Missing key.*conv.weight"):
        load_network("timm:small", str(tmp_path / "other.pth"))


@pytest.mark.parametrize(
    ("changed", "sizes", "note"),
    [
        ({"crop_mode": "squash"}, (71, 64), "without keeping their aspect ratio"),
        ({"crop_mode": "border"}, (71, 64), "resizes the longer side and adds borders"),
        ({"crop_pct": 1.15}, (64, 64), "resizes the shorter side to 55 and adds borders"),
        ({"crop_pct": 1.0}, (64, 64), None),
    ],
)
def test_crops_that_are_not_reproduced_are_noted(changed, sizes, note, timm, weights):
    timm.configuration |= changed
    loaded = load_network("timm:small", weights)
    assert (loaded.transform.resize_size, loaded.transform.crop_size) == sizes
    assert loaded.transform_note == "" if note is None else note in loaded.transform_note


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"input_size": (3, 64, 48)}, "takes images of 64x48 pixels: only squares"),
        ({"interpolation": "lanczos"}, "timm's evaluation transform must be"),
    ],
)
def test_transforms_that_cannot_be_had_are_refused(changed, message, timm, weights):
    timm.configuration |= changed
    with pytest.raises(UserError, match=message):
        load_network("timm:small", weights)


def test_pretrained_weights_come_from_the_cache_without_a_network(timm, tmp_path):
    original = Small(1000)
    timm.hub.file = tmp_path / "pytorch_model.bin"
    torch.save(original.state_dict(), timm.hub.file)
    loaded = load_network("timm:small")
    assert loaded.fingerprint == fingerprint(original) and not timm.hub.reached
    assert loaded.weights == "timm's small.a1_in1k" and loaded.has_imagenet_classes
    assert named_network("timm:small").are_default_weights(loaded.weights)
    timm.hub.file.write_bytes(b"damaged")
    with pytest.raises(UserError, match=r"weights file .*pytorch_model.bin is damaged or not small's .*: delete it"):
        load_network("timm:small")


def test_outputs_of_other_classes_are_not_imagenets(timm, tmp_path):
    timm.hub.file = tmp_path / "pytorch_model.bin"
    torch.save(Small(21841).state_dict(), timm.hub.file)
    assert not load_network("timm:small.b2_in21k").has_imagenet_classes


def test_without_cache_and_network_the_message_names_the_weights(timm):
    with pytest.raises(UserError, match=r"timm/small of the Hugging Face hub, are not in cache .*not known\).*FILE$"):
        load_network("timm:small")
    assert timm.hub.reached == ["timm/small/model.safetensors", "timm/small/pytorch_model.bin"]
    with pytest.raises(UserError, match=r"^--embedding timm:small: .*download them where there is a network$"):
        load_embedder("timm:small", "0", Transform())
    for name in (WITHOUT_WEIGHTS, UNCONFIGURED):
        with pytest.raises(UserError, match="timm has no pretrained weights of it: give --weights FILE"):
            load_network(f"timm:{name}")
        with pytest.raises(UserError, match=r"timm has no pretrained weights of it$"):
            load_embedder(f"timm:{name}", "0", Transform())


def test_weights_at_a_url_are_looked_for_in_torchs_cache(timm, tmp_path, monkeypatch):
    registered = timm.get_pretrained_cfg("small")
    registered.hf_hub_id, registered.url = None, "https://nowhere.example/small-1234.pth"
    timm.get_pretrained_cfg = lambda name: registered
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    original = Small(1000)
    (tmp_path / "checkpoints").mkdir()
    torch.save(original.state_dict(), tmp_path / "checkpoints" / "small-1234.pth")
    assert load_network("timm:small").fingerprint == fingerprint(original)
    (tmp_path / "checkpoints" / "small-1234.pth").unlink()

    def no_network(*_, **__):
        raise OSError("no route to host")

    timm.create_model = no_network
    with pytest.raises(UserError, match=r"nowhere.example/small-1234.pth, are not in .*checkpoints .*\(no route"):
        load_network("timm:small")


def test_unknown_names_are_refused_with_the_nearest_ones(timm):
    with pytest.raises(UserError, match=r"timm 1.0 has no such network; similar: small"):
        load_network("timm:smal")
    with pytest.raises(UserError, match=r"similar: small.a1_in1k"):
        load_network("timm:small.a1_in1")
    with pytest.raises(UserError, match=r"timm has one: --model timm:small$"):
        load_network("small")
    with pytest.raises(UserError, match=r"file.py:function(; similar.*)?$"):
        load_network("small.unknown_tag")  # which timm would refuse, too


def test_packages_that_cannot_be_imported_are_named(timm, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UserError, match="needs huggingface_hub: pip install huggingface_hub"):
        load_network("timm:small")

    def broken(name):
        raise RuntimeError("operator torchvision::nms does not exist")

    monkeypatch.setattr("utils.networks.timm_models.importlib.import_module", broken)
    with pytest.raises(UserError, match=r"needs timm: pip install timm .RuntimeError: operator"):
        load_network("timm:small")
    with pytest.raises(UserError, match=r"file.py:function"):
        load_network("small")


def test_safetensors_are_read_and_said_to_be_missing(timm, weights, tmp_path, monkeypatch):
    state, file = torch.load(weights), tmp_path / "mine.safetensors"
    file.touch()
    library = ModuleType("safetensors.torch")
    library.load_file = {str(file): state}.__getitem__
    monkeypatch.setitem(sys.modules, "safetensors", ModuleType("safetensors"))
    monkeypatch.setitem(sys.modules, "safetensors.torch", library)
    assert load_network("timm:small", str(file)).fingerprint == load_network("timm:small", weights).fingerprint
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    with pytest.raises(UserError, match=r"mine.safetensors needs safetensors: pip install safetensors"):
        load_network("timm:small", str(file))


# --------------------------------------------------------------------------------------------------------------------
# timm itself


NAME = "test_resnet.r160_in1k"  # one of timm's own small networks for tests


def test_timms_weights_are_found_in_the_hubs_cache(tmp_path, monkeypatch):
    timm = pytest.importorskip("timm")
    hub = pytest.importorskip("huggingface_hub")
    save_file = pytest.importorskip("safetensors.torch").save_file
    monkeypatch.setattr(hub.constants, "HF_HUB_CACHE", str(tmp_path))
    original = timm.create_model(NAME)
    folder = tmp_path / f"models--timm--{NAME}"
    for part in ("refs", "snapshots/1234", "blobs"):
        (folder / part).mkdir(parents=True)
    (folder / "refs" / "main").write_text("1234")
    file = folder / "snapshots" / "1234" / "model.safetensors"
    save_file(original.state_dict(), file)
    loaded = load_network(f"timm:{NAME}")
    assert loaded.fingerprint == fingerprint(original) == load_network(f"timm:{NAME}", str(file)).fingerprint
    assert loaded.weights == f"timm's {NAME}" and loaded.has_imagenet_classes
    picture = Image.effect_noise((190, 230), 60).convert("RGB")
    expected = timm.data.create_transform(**timm.data.resolve_model_data_config(original))(picture)
    torch.testing.assert_close(loaded.transform(picture), expected, atol=1e-5, rtol=1e-5)


def test_lines_make_timms_network(tmp_path):
    timm = pytest.importorskip("timm")
    original = timm.create_model("test_vit", num_classes=3)
    torch.save(original.state_dict(), tmp_path / "mine.pth")
    loaded = load_network("timm:test_vit", str(tmp_path / "mine.pth"))
    names = {}
    exec("\n".join(named_network("timm:test_vit").lines_that_make(loaded.module)), names)
    names["network"].load_state_dict(original.state_dict())
    assert fingerprint(names["network"]) == loaded.fingerprint
