"""get_results.py --report: pages from what is there, whatever the class folders are called."""

import csv
import json
import os
import re
import shutil
import subprocess
import threading
from html.parser import HTMLParser
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import unquote

import pytest
from PIL import Image

from tests.pictures import write_images
from tests.scripts import (
    COMPUTE,
    NETWORK,
    PATIENCE,
    RUN,
    contents,
    messages,
    run_script,
    stage1,
    stage2,
    stage3,
    succeed,
)
from utils.command_line import reporting
from utils.errors import UserError
from utils.store.splits import read_split, write_split

pytestmark = pytest.mark.usefixtures("without_figures")

HOSTILE = ("\"quotes' & <b>", "<img src=x onerror=alert(1)>", "<script>alert(1)<\\script>", "Käse 🧀 <td>")
PAIR = ("--classes_for_concept1", "1", "--classes_for_concept2", "3")
FOLDER = Path("report") / RUN
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def report(folder, *more):
    flags = ("--data_dir", "data", "--store_dir", "store", *more)
    return run_script("get_results.py", "--report", *NETWORK, *flags, *COMPUTE, cwd=folder)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with all stages of classes of hostile names, one split that was measured, and its report."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FIGURES", "empty")
        yield make(tmp_path_factory.mktemp("report"))


def make(folder):
    data = write_images(folder / "data", folders=HOSTILE)
    stage1(data, folder / "store", cwd=folder)
    stage1(data, folder / "store", "--images", "val", cwd=folder)
    stage2("store", "--cos_sim_high", "0.5", cwd=folder)
    stage3(data, folder / "store", pair=PAIR, cwd=folder)
    flags = ("--data_dir", data, "--store_dir", "store", "--channel_of_interest", 9, *PAIR)
    wishes = ("--get_separation", "--get_quantitative", "--proportion_attribution_required", "0.0001")
    succeed("get_results.py", *NETWORK, *flags, *COMPUTE, *wishes, cwd=folder)
    result = report(folder)
    assert result.returncode == 0, result.stderr
    return folder, result


class Page(HTMLParser):
    """The tags of a page with their attributes, and its text."""

    def __init__(self, path):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(path.read_text())

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text += data

    def of(self, *names):
        return [attributes for tag, attributes in self.tags if tag in names]


def pages(folder):
    return {path.name: Page(path) for path in sorted((folder / FOLDER).glob("*.html"))}


# --------------------------------------------------------------------------------------------------------------------
# What is there


def test_a_page_for_the_layer_and_one_for_each_polysemantic_channel(made):
    folder, result = made
    table = (folder / "results_get_cosine_similarities").glob("*0.5_channels.csv")
    with next(table).open(newline="") as file:
        polysemantic = {int(row["Channel"]) for row in csv.DictReader(file) if int(row["PairsUnderGamma"])}
    assert 9 in polysemantic
    found = pages(folder)
    assert set(found) == {"index.html", *(f"channel_{channel}.html" for channel in polysemantic)}
    assert f"open {FOLDER}/index.html" in result.stdout.splitlines()
    data = json.loads((folder / FOLDER / "data.js").read_text().removeprefix("const CHANNELS = ").removesuffix(";"))
    assert {one["channel"] for one in data} == polysemantic
    nine = next(one for one in data if one["channel"] == 9)
    assert nine["after"] > nine["before"] and nine["cosine"] < 0.5
    index = found["index.html"]
    assert [one["id"] for one in index.of("tr") if "id" in one] == [f"row-{one['channel']}" for one in data]
    assert f"{len(polysemantic)} of 12 channels are polysemantic" in index.text


def test_the_headline_of_the_separation_comes_first(made):
    text = (made[0] / "results_quantitative" / "separation.md").read_text()
    first, second = [line for line in text.splitlines() if line][2:4]
    assert " of 2 concepts stand above their primary null (permuted weights) at q < 0.05 " in first
    found = pages(made[0])
    for name, heading in (("index.html", "The layer at a glance"), ("channel_9.html", "Most activating patches")):
        places = [found[name].text.index(words) for words in (f"{first}.", f"{second}.", heading)]
        assert places == sorted(places)


def test_average_precision_leads_in_the_table_of_a_channel(made):
    text = (made[0] / FOLDER / "channel_9.html").read_text()
    (table,) = [part.split("</table>")[0] for part in text.split("<table") if "AP before, after" in part]
    head, *rows = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row) for row in table.split("<tr>")[1:]]
    assert head[:5] == ["concept", "images", "AP before, after", "before", "after"]
    assert head[6] == "AP of a linear probe of the input"
    assert head[10:15] == ["AP of the class's own logit", "Pearson before", "after", "AUROC before", "after"]
    with (made[0] / "results_quantitative" / "separation.csv").open(newline="") as file:
        stored = list(csv.DictReader(file))
    columns = ["ap_all_own_logit", "pearson_all_original", "pearson_all", "auroc_all_original", "auroc_all"]
    assert len(rows) == len(stored) == 2
    for cells, row in zip(rows, stored, strict=True):
        assert len(cells) == len(head)
        assert float(cells[6]) == pytest.approx(float(row["ap_all_probe"]), abs=0.006)
        assert [float(cell) for cell in cells[10:15]] == pytest.approx(
            [float(row[column]) for column in columns], abs=0.006
        )


def test_names_are_text_and_nothing_but_the_two_scripts_runs(made):
    for name, page in pages(made[0]).items():
        scripts = [one.get("src") for one in page.of("script")]
        assert scripts == (["data.js", "page.js"] if name == "index.html" else [])
        assert not [one for _, one in page.tags if any(key.startswith("on") or key == "style" for key in one)]
        (policy,) = [one["content"] for one in page.of("meta") if "http-equiv" in one]
        assert policy.startswith("default-src 'none'; ") and "unsafe" not in policy and "http" not in policy
        assert {tag for tag, _ in page.tags}.isdisjoint({"iframe", "object", "embed", "base", "form"} - {"form"})
    everything = pages(made[0])["index.html"].text
    assert all(name in everything for name in HOSTILE if name in (HOSTILE[1], HOSTILE[3]))


def test_everything_that_a_page_names_lies_beside_it(made):
    root = made[0] / FOLDER
    for name, page in pages(made[0]).items():
        named = [one.get("src") or one.get("href") for one in page.of("img", "script", "link", "a")]
        assert not [one for one in named if re.match(r"\w+:|//", one)]
        paths = {unquote(one.split("#")[0]) for one in named} - {""}
        assert paths and not [one for one in paths if not (root / one).exists()], name
        pictures = page.of("img")
        assert all(one["alt"] and one["loading"] == "lazy" and one["width"] for one in pictures)


def test_patches_are_in_strips_of_sixteen(made):
    page = pages(made[0])["channel_9.html"]
    strips = dict.fromkeys(one["src"] for one in page.of("img") if one["src"].startswith("patches/"))
    assert len(strips) == 3  # the channel, c'1 and c'2
    for src in strips:
        with Image.open(made[0] / FOLDER / src) as picture:
            assert picture.size == (16 * 80, 80) and picture.format == "JPEG"
        shown = [one["class"] for one in page.of("img") if one["src"] == src]
        assert shown == [f"p{place}" for place in range(16)]
    alts = [one["alt"] for one in page.of("img") if one["src"] == list(strips)[1]]
    values = [float(re.search(r"activation (-?[\d.e+-]+)", alt)[1]) for alt in alts]
    assert values == sorted(values, reverse=True) and alts[0].startswith("rank 1: ")


def test_what_has_not_been_computed_is_a_command(made):
    folder, _ = made
    found = pages(folder)
    nine = found["channel_9.html"].text
    stem = f"store/models_disentangled/{RUN}_channel9_1_3.pt"
    for wish in ("effect", "edit", "feature_visualization", "channel_card"):
        assert f"--data_dir data --store_dir store --splits {stem} --get_{wish}" in nine
    assert f"--splits {stem} --get_quantitative" not in nine and "Not measured" in nine
    other = next(page for name, page in found.items() if name not in ("index.html", "channel_9.html"))
    channel = re.search(r"Channel (\d+)", other.text)[1]
    assert f"--channel_disentangle {channel} --split_by least_squares" in other.text
    assert "has not been split" in other.text


def test_a_command_makes_the_split_again_that_it_stands_by(made, tmp_path):
    shutil.copytree(made[0], tmp_path / "copy")
    text = pages(tmp_path / "copy")["channel_9.html"].text
    command = re.findall(r"python \S*(disentangle_channel\.py [^\n]*)", text)[-1].split()
    assert re.findall(r"python \S*get_results\.py [^\n]*", text)[-1].count("--get_quantitative --get_effect --prop")
    before = contents(tmp_path / "copy" / "store" / "models_disentangled")
    succeed(*command, *COMPUTE, cwd=tmp_path / "copy")
    assert contents(tmp_path / "copy" / "store" / "models_disentangled") == before


def test_a_second_report_looks_at_no_image_again_and_removes_what_is_no_longer_shown(made, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(made[0], folder)
    for path in (FOLDER / "channel_999.html", FOLDER / "patches" / "old.jpg", FOLDER / "figures" / "old.jpg"):
        folder.joinpath(path).write_text("")
    before = contents(made[0] / FOLDER)
    result = report(folder)
    assert result.returncode == 0 and "validation images" not in result.stderr
    assert contents(folder / FOLDER) == before


def test_another_patch_size_needs_no_pass_and_another_image_does(made, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(made[0], folder)
    assert "validation images" not in report(folder, "--patch_size", "10").stderr
    extra = next((folder / "data" / "val").glob("*/0.png"))
    shutil.copy(extra, extra.with_name("more.png"))
    result = report(folder)
    assert result.returncode == 0 and "validation images" in result.stderr
    assert "17 validation images of 4 classes" in pages(folder)["channel_9.html"].text


def test_concepts_without_labels_have_patches_a_null_and_a_map(made, tmp_path, monkeypatch):
    monkeypatch.setenv("FIGURES", "coarse")
    folder = tmp_path / "copy"
    shutil.copytree(made[0], folder)
    circuits = ("--concepts_from", "circuits", "--nr_concepts", "3", "--nr_reference_images", "12")
    stage3("data", "store", *circuits, pair=(), cwd=folder)
    (split,) = (folder / "store" / "models_disentangled").glob("*circuits*.pt")
    assert report(folder).returncode == 0
    page = pages(folder)["channel_9.html"]
    assert "Images are assigned to these concepts by the channel itself" in page.text
    score = r"-?\d\.\d\d; permuted weights -?\d\.\d\d to -?\d\.\d\d"
    assert len(re.findall(rf"{score}|{score} \(\d+ of 20\)|stands out in no class|in no class", page.text)) >= 3
    strips = {one["src"] for one in page.of("img") if one["src"].startswith("patches/")}
    assert len(strips) == 3 + 4  # those of the labelled split; three circuits and everything else
    assert f"--splits store/models_disentangled/{split.name} --get_map" in page.text
    flags = ("--data_dir", "data", "--store_dir", "store", "--splits", split, "--get_map")
    succeed("get_results.py", *NETWORK, *flags, *COMPUTE, cwd=folder)
    assert report(folder).returncode == 0
    page = pages(folder)["channel_9.html"]
    assert f"figures/{split.stem}_map.jpg" in [one["src"] for one in page.of("img")]
    assert "--get_map" not in page.text
    file = read_split(split)
    file.split.arvs *= 1.1  # as if the training images had changed since
    write_split(split, file)
    result = report(folder)
    assert result.returncode == 0
    (line,) = [line for line in messages(result.stderr) if "permuted weights" in line]
    assert line.startswith(f"warning: not compared with permuted weights: store/models_disentangled/{split.name} was")
    assert not re.search(score, pages(folder)["channel_9.html"].text)


# --------------------------------------------------------------------------------------------------------------------
# What is asked for


@pytest.mark.parametrize(
    ("more", "complaint"),
    [
        (("--channel_of_interest", "9"), "--channel_of_interest has no effect with --report alone: leave it out"),
        (("--get_separation",), "--get_separation has no effect with --report alone: leave it out"),
        (("--summary",), "--summary has no effect with --report alone: leave it out"),
        (("--candidates", "none.json"), "--candidates none.json: there is no such file"),
        (
            ("--output_dir", "elsewhere"),
            "/elsewhere/results_get_cosine_similarities (if elsewhere, give --output_dir)",
        ),
        (("--patch_size", "999"), "--patch_size 999 is larger than the image, 24 pixels"),
        (("--resize_size", "99"), "store was made with another resize size (24; now 99)"),
        (("--data_dir", "nowhere"), "there is no folder nowhere/val"),
    ],
)
def test_what_means_nothing_is_refused_in_one_line(made, more, complaint):
    result = report(made[0], *more)
    assert result.returncode == 2 and complaint in messages(result.stderr)[-1]
    assert len(messages(result.stderr)) == 1


def test_of_several_tables_the_newest_is_shown_unless_another_is_named(made, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(made[0], folder)
    stage2("store", "--cos_sim_high", "0.9", cwd=folder)
    tables = sorted((folder / "results_get_cosine_similarities").glob("*_groups.json"))
    assert len(tables) == 2
    for age, path in enumerate(tables):
        os.utime(path, (1e9 - age, 1e9 - age))
    assert "γ = 0.5" in report(folder).stdout
    pairs = tables[1].with_name(f"{tables[1].stem.removesuffix('_groups')}.json")
    printed = report(folder, "--candidates", pairs).stdout
    assert "γ = 0.9" in printed
    assert f"for other settings: --candidates results_get_cosine_similarities/{tables[0].name}" in printed
    index = pages(folder)["index.html"].text
    assert "γ = 0.9" in index and f"--report --candidates results_get_cosine_similarities/{tables[0].name}" in index
    stage2("store", "--proportion_attribution_required", "1", "--p", "1", cwd=folder)
    (nothing,) = set((folder / "results_get_cosine_similarities").glob("*_groups.json")) - set(tables)
    assert "other settings" in printed and nothing.name not in report(folder, "--candidates", pairs).stdout


# --------------------------------------------------------------------------------------------------------------------
# In a browser


def dump(url, folder):
    """The page as a browser has made it, as text."""
    quiet = ("no-first-run", "disable-background-networking", "disable-component-update", "disable-sync")
    flags = ("headless", "no-sandbox", "disable-gpu", *quiet, f"user-data-dir={folder / 'profile'}", "dump-dom")
    command = [CHROMIUM, *(f"--{flag}" for flag in flags), url]
    result = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    assert result.returncode == 0, result.stderr
    return result.stdout


def shown_rows(html):
    rows = re.findall(r'<tr role="row" id="row-(\d+)"( hidden="")?>', html)
    return [int(channel) for channel, hidden in rows if not hidden], [int(channel) for channel, _ in rows]


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")
def test_sorting_and_filtering_in_a_browser(made, tmp_path):
    url = (made[0] / FOLDER / "index.html").as_uri()
    data = json.loads((made[0] / FOLDER / "data.js").read_text().removeprefix("const CHANNELS = ").removesuffix(";"))
    html = dump(f"{url}#sort=channel&turn=1", tmp_path)
    assert shown_rows(html)[0] == sorted((one["channel"] for one in data), reverse=True)
    assert re.search('<th[^>]*data-sort="channel"[^>]*aria-sort="descending"', html)
    html = dump(f"{url}#sort=cosine&filter=%F0%9F%A7%80", tmp_path)
    by_cosine = sorted(data, key=lambda one: (one["cosine"], one["best"]))
    assert shown_rows(html)[1] == [one["channel"] for one in by_cosine]
    assert shown_rows(html)[0] == [one["channel"] for one in by_cosine if "🧀" in one["text"]]
    shown = len(shown_rows(html)[0])
    assert f">{shown} of {len(data)} channels</output>" in html


class Canary(BaseHTTPRequestHandler):
    """Hears every request that is made of it."""

    def do_GET(self):
        self.server.heard.append(self.path)
        self.send_error(404)

    def log_message(self, *_):
        pass


@pytest.fixture
def canary():
    server = HTTPServer(("127.0.0.1", 0), Canary)
    server.heard = []
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")
def test_no_request_leaves_the_page_whatever_came_into_it(made, tmp_path, canary):
    """Its policy holds even for what no escaping has stopped; without the policy the same page is heard."""
    source = made[0] / FOLDER
    shutil.copytree(source, tmp_path / "report")
    page = tmp_path / "report" / "index.html"
    host = f"http://127.0.0.1:{canary.server_port}"
    tags = f'<img src="{host}/img"><script src="{host}/src"></script><script>document.title = "owned"</script>'
    page.write_text(page.read_text().replace("<main>", f"<main>{tags}"))
    html = dump(page.as_uri(), tmp_path)
    assert canary.heard == [] and "owned" not in re.search("<title>(.*)</title>", html)[1]
    policy = re.compile("<meta http-equiv=[^>]*>")
    page.write_text(policy.sub("", page.read_text()))
    html = dump(page.as_uri(), tmp_path)
    assert sorted(canary.heard) == ["/img", "/src"] and "<title>owned</title>" in html


def test_a_report_without_readable_nulls_is_made_and_one_line_says_what_to_do(monkeypatch, capsys):
    """Whatever is read of a store for all splits together; a warning for each split is for splits of other images."""

    def damaged(*_):
        raise UserError("chunk_000003.npz is damaged: delete it and run get_importances_for_classes.py again")

    layer = SimpleNamespace(unlabelled=[SimpleNamespace(path=Path("a.pt"), opened=None)] * 2)
    monkeypatch.setattr(reporting, "_open_nulls", damaged)
    assert reporting._scores_beside_nulls(None, "m", layer, None, None) == {}
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("warning: concepts without labels are shown without permuted weights: chunk_000003.npz is ")
    assert line.endswith("again; then run this again")
    monkeypatch.setattr(reporting, "_open_nulls", lambda *_: SimpleNamespace(of=damaged))
    assert reporting._scores_beside_nulls(None, "m", layer, None, None) == {Path("a.pt"): None}
    assert len(messages(capsys.readouterr().err)) == 1  # the same cause is named once
