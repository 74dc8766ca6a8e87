"""Runs whose files are damaged are told, also those of older versions that know no hashes; hostile names break nothing."""

from __future__ import annotations

import json
import random
import re
import warnings
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pandas as pd
import pytest

from pmq.api import resolve
from pmq.core import PmqError
from pmq.core.rundir import MANIFEST, add_to_manifest
from pmq.reporting import RunData, plot_run, write_page
from pmq.reporting.pareto import plot_pareto
from pmq.reporting.rounds import plot_rounds
from tests.made_run import INFO, make_run

HOSTILE = "$\\frac{ </script><b>&amp;\"'\x01\u2028{{ 7*7 }}"


@pytest.fixture
def older(tmp_path: Path) -> Path:
    """A run that knows no hashes."""
    run = make_run(tmp_path / "run")
    add_to_manifest(run, {"files": {}})
    return run


def table(name: str, change: Callable[[pd.DataFrame], pd.DataFrame | None]) -> Callable[[Path], object]:
    def damage(run: Path) -> None:
        frame = pd.read_csv(run / name, dtype=str, keep_default_na=False)
        changed = change(frame)
        (frame if changed is None else changed).to_csv(run / name, index=False)

    return damage


def cell(name: str, column: str, value: str, row: int = 0) -> Callable[[Path], object]:
    def change(frame: pd.DataFrame) -> None:
        frame.loc[row, column] = value

    return table(name, change)


def tree(name: str, change: Callable[[Any], object]) -> Callable[[Path], object]:
    def damage(run: Path) -> None:
        data = json.loads((run / name).read_text())
        change(data)
        (run / name).write_text(json.dumps(data))

    return damage


def cut(name: str, share: float) -> Callable[[Path], object]:
    return lambda run: (run / name).write_text((run / name).read_text()[: int(share * (run / name).stat().st_size)])


def first(data: Any) -> Any:
    return data["decisions"][0]


def deployed(**facts: object) -> Callable[[Path], object]:
    whole = {"target": "t", "size_bytes": 1, "latency_ms": 1.0, "n_images": 1, "threads": 1, "proof": {"size": {"passed": True}}}

    def damage(run: Path) -> None:
        (run / "deploy").mkdir()
        (run / "deploy" / "deployment.json").write_text(json.dumps(whole | facts))

    return damage


def patches(**facts: object) -> Callable[[Path], object]:
    whole = {"label": "static", "prefix": 1, "images": ["aGk="], "bits": {"a.input": ["44"]}}

    def damage(run: Path) -> None:
        (run / "plots").mkdir()
        (run / "plots" / "patches.json").write_text(json.dumps(whole | facts))

    return damage


DAMAGE: dict[str, Callable[[Path], object]] = {
    "front.csv is cut": cut("front.csv", 0.6),
    "front.csv is its header": table("front.csv", lambda frame: frame[:0]),
    "front.csv is empty": lambda run: (run / "front.csv").write_text(""),
    "front.csv without a column": table("front.csv", lambda frame: frame.drop(columns="genome")),
    "front.csv with another column": table("front.csv", lambda frame: frame.rename(columns={"kl": "lk"})),
    "front.csv with a column twice": lambda run: (run / "front.csv").write_text("front,front\nTrue,True\n"),
    "text for a number": cell("front.csv", "size_bytes", "much"),
    "nan": cell("front.csv", "size_bytes", "nan"),
    "infinite": cell("front.csv", "bit_ops", "inf"),
    "negative": cell("front.csv", "size_bytes", "-1"),
    "no cost": cell("front.csv", "bit_ops", ""),
    "no flag": cell("front.csv", "within", "yes"),
    "half an image": cell("front.csv", "n_images", "1.5"),
    "no genome": cell("front.csv", "genome", ""),
    "a short genome": cell("front.csv", "genome", "00"),
    "a genome of no choice": cell("front.csv", "genome", "z" * 10),
    "a point twice": table("front.csv", lambda frame: pd.concat([frame, frame[:1]])),
    "none is chosen": table("front.csv", lambda frame: frame.assign(chosen="False")),
    "two are chosen": table("front.csv", lambda frame: frame.assign(chosen=["True", "True", *["False"] * (len(frame) - 2)])),
    "the chosen one costs something else": table(
        "front.csv", lambda frame: frame.assign(size_bytes=frame["bit_ops"], bit_ops=frame["size_bytes"])
    ),
    "points.csv is cut": cut("points.csv", 0.5),
    "points.csv without predictions": table("points.csv", lambda frame: frame.assign(predicted_error="")),
    "points.csv knows milliseconds": table("points.csv", lambda frame: frame.assign(latency_ms="1")),
    "rounds.csv is its header": table("rounds.csv", lambda frame: frame[:0]),
    "rounds go backwards": table("rounds.csv", lambda frame: pd.concat([frame, frame.assign(simulated="1")])),
    "sensitivity.csv is cut": cut("sensitivity.csv", 0.5),
    "9 bits": cell("sensitivity.csv", "bits", "9"),
    "an error that is none": cell("sensitivity.csv", "error", ""),
    "a component that is none": cell("sensitivity.csv", "component", "x"),
    "another role": cell("sensitivity.csv", "role", "activation"),
    "another kind": cell("sensitivity.csv", "kind", "head"),
    "an unknown quantizer": cell("sensitivity.csv", "quantizer", "magic"),
    "a choice twice": table("sensitivity.csv", lambda frame: pd.concat([frame, frame[:1]])),
    "several metrics": cell("sensitivity.csv", "metric", "other"),
    "spent.csv lacks a module": table("spent.csv", lambda frame: frame[1:]),
    "spent.csv holds more than numbers go to": table("spent.csv", lambda frame: frame.assign(size_bytes=1e308)),
    "spent.csv has a module twice": cell("spent.csv", "module", "all else"),
    "spent.csv is exchanged": table(
        "spent.csv", lambda frame: frame.rename(columns={"size_bytes": "bit_ops", "bit_ops": "size_bytes"})
    ),
    "inventory of nothing": tree("inventory.json", lambda data: data.update(components=[])),
    "inventory without operators": tree("inventory.json", lambda data: data.pop("operators")),
    "a slot that is none": tree("inventory.json", lambda data: data["components"][0].update(slot="x")),
    "a shape of nothing": tree("inventory.json", lambda data: data["components"][0].update(shape=[0])),
    "another shape": tree("inventory.json", lambda data: data["components"][0].update(shape=[8, 1, 4, 5])),
    "a component less": tree("inventory.json", lambda data: data["components"].pop()),
    "a component twice": tree("inventory.json", lambda data: data["components"].append(data["components"][0])),
    "an operand that is none": tree("inventory.json", lambda data: data["operators"][0].update(operands=["a", "b"])),
    "rest of text": tree("inventory.json", lambda data: data.update(rest_bytes="x")),
    "decisions of nothing": tree("decisions.json", lambda data: data.update(decisions=[])),
    "no decisions": tree("decisions.json", lambda data: data.pop("decisions")),
    "a decision less": tree("decisions.json", lambda data: data["decisions"].pop()),
    "a decision's components": tree("decisions.json", lambda data: first(data).update(components=["x"])),
    "a decision without choices": tree("decisions.json", lambda data: first(data).update(choices=[[]])),
    "a choice of 9 bits": tree("decisions.json", lambda data: first(data)["choices"][0][0].update(bits=9)),
    "a folder for decisions": lambda run: ((run / "decisions.json").unlink(), (run / "decisions.json").mkdir()),
    "settings of a list": tree(MANIFEST, lambda data: data.update(settings=[])),
    "settings without a model": tree(MANIFEST, lambda data: data["settings"].pop("model")),
    "a budget that is none": tree(MANIFEST, lambda data: data["settings"].update(budget=4)),
    "held out nothing": tree(MANIFEST, lambda data: data["settings"].update(held_out=3)),
    "versions of a list": tree(MANIFEST, lambda data: data["settings"].update(versions=["1"])),
    "a target that is none": deployed(target=3),
    "a proof that is none": deployed(proof={"size": "passed"}),
    "a latency of text": deployed(latency_ms="1 ms"),
    "a machine of a list": deployed(machine=["x"]),
    "images that are none": patches(images=['"onerror="']),
    "bits that are none": patches(bits={"a.input": ["79"]}),
    "bits of other images": patches(bits={"a.input": ["44", "44"]}),
    "bits of no patch": patches(prefix=2),
}


@pytest.mark.parametrize("of", DAMAGE)
def test_damage_is_told_in_one_line(older: Path, of: str) -> None:
    DAMAGE[of](older)
    with pytest.raises(PmqError) as error:
        write_page([older])
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 800
    assert not (older / "report.html").exists()


SETTINGS: dict[str, Callable[[Any], object]] = {
    "space": lambda settings: settings.update(space=[]),
    "bits": lambda settings: settings["space"]["weight"].update(bits=[2, 8]),
    "unknown key": lambda settings: settings["space"].update(colour=1),
    "estimator": lambda settings: settings["recipe"].update(estimator="mse"),
    "recipe": lambda settings: settings["recipe"].update(name="best"),
    "recipe of text": lambda settings: settings.update(recipe="best"),
    "model": lambda settings: settings["model"].update(name="other"),
    "hash": lambda settings: settings["model"].update(weights_sha256="1" * 64),
    "metric": lambda settings: settings.pop("metric"),
    "widths": lambda settings: settings.update(widths=[["a", ["1/2"]]]),
}


@pytest.mark.parametrize("of", SETTINGS)
def test_settings_that_tables_are_not_of_are_not_solved_for(older: Path, of: str) -> None:
    tree(MANIFEST, lambda data: SETTINGS[of](data["settings"]))(older)
    before = sorted(older.rglob("*"))
    with pytest.raises(PmqError) as error:
        resolve(older, "size=1kB")
    assert "\n" not in str(error.value)
    assert sorted(older.rglob("*")) == before


@pytest.mark.parametrize("share", [0.3, 0.9])
def test_cut_tables_are_not_solved(older: Path, share: float) -> None:
    text = (older / "front.csv").read_text()
    (older / "front.csv").write_text(text[: text.index("\n") + 1])
    with pytest.raises(PmqError, match=r"front\.csv.* has fewer rows"):
        resolve(older, "size=1kB")
    (older / "front.csv").write_text(text[: int(share * len(text))])
    with pytest.raises(PmqError, match=r"front\.csv"):
        resolve(older, "size=1kB")


def test_a_budget_too_long_for_a_file_is_told_before_it_is_solved(older: Path) -> None:
    with pytest.raises(PmqError, match="more than 255 bytes"):
        resolve(older, ",".join(["size=1kB"] * 60))


def test_random_damage_is_read_rightly_or_told(older: Path) -> None:
    """What is changed at random is told in one line, or still gives a page that holds no NaN."""
    files = [
        path for path in older.rglob("*") if path.suffix in (".csv", ".json") and path.name not in ("schema.json", "costs.csv")
    ]
    rng = random.Random(0)
    for _ in range(25):
        path = rng.choice(files)
        before = path.read_bytes()
        data = bytearray(before)
        at = rng.randrange(len(data))
        data[at : at + rng.choice([0, 1, 9])] = rng.choice(
            [b"", b"0", b"9", b"-", b"null", b"nan", b"x", b"[", b",", b"\n", b"\xff", b'"']
        )
        path.write_bytes(data)
        for read in (lambda: write_page([older], older / "out.html"), lambda: resolve(older, "size=1kB")):
            try:
                read()
            except PmqError as error:
                assert "\n" not in str(error)
        path.write_bytes(before)


class Elements(HTMLParser):
    """Counts elements, and keeps the data."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.data = ""
        self._inside = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append(tag)
        self._inside = ("id", "data") in attrs

    def handle_endtag(self, tag: str) -> None:
        self._inside = False

    def handle_data(self, data: str) -> None:
        self.data += data if self._inside else ""


def test_hostile_names_leave_a_page_valid(tmp_path: Path) -> None:
    plain = Elements(write_page([make_run(tmp_path / "plain")]).read_text("utf-8"))
    run = make_run(tmp_path / "$\\frac{<b>", info=INFO.model_copy(update={"name": HOSTILE}))
    add_to_manifest(run, {"command": {"line": HOSTILE, "model": HOSTILE, "data": "/caf\udce9"}})
    page = Elements(write_page([run]).read_text("utf-8"))
    assert page.found == plain.found
    assert json.loads(page.data)[0]["title"] == f"{HOSTILE}, budget size=900B"


def test_hostile_names_are_no_formulas(tmp_path: Path) -> None:
    run = RunData(make_run(tmp_path / "run", info=INFO.model_copy(update={"name": HOSTILE})))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of characters that the font has not
        paths = plot_rounds(run, tmp_path / "plots")
    svg = next(path for path in paths if path.suffix == ".svg").read_text("utf-8")
    ElementTree.fromstring(svg)
    assert "$\\frac{" in svg


def test_ticks_of_logarithms_are_numbers(tmp_path: Path) -> None:
    paths = plot_pareto(RunData(make_run(tmp_path / "run")), tmp_path / "plots")
    svg = next(path for path in paths if path.suffix == ".svg").read_text("utf-8")
    texts = re.findall(r"<!-- (.*?) -->", svg)
    assert {"0.1", "0.01"} & set(texts)
    assert not [text for text in texts if "$" in text or "mathdefault" in text]


def test_figures_are_not_drawn_over_a_runs_tables(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    with pytest.raises(PmqError, match="cannot draw into"):
        plot_run(run, run)


def test_what_was_searched_is_among_the_facts(older: Path) -> None:
    add_to_manifest(older, {"macs_searched": 87.5, "bytes_searched": 50.0})
    facts = dict(json.loads(Elements(write_page([older]).read_text("utf-8")).data)[0]["facts"])
    assert facts["searched"] == "87.5 % of multiply-accumulates and 50.0 % of weight bytes"
    tree(MANIFEST, lambda data: (data.pop("macs_searched"), data.pop("bytes_searched")))(older)
    assert "searched" not in dict(json.loads(Elements(write_page([older]).read_text("utf-8")).data)[0]["facts"])
