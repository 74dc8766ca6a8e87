"""The wheel and the source distribution: complete, and running where nothing but they and their requirements are installed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import tarfile
import venv
from pathlib import Path

import pytest

from tests.conftest import ROOT

BUILD = "from setuptools import build_meta; print(build_meta.build_{}({!r}))"
SEARCH = ["search", "--budget", "w4a8", "--space", "w4a8", "--recipe", "mse", "--rounds", "1", "--max-evals", "4"]
SEARCH += ["--calib-images", "4", "--held-out", "8", "--metric", "sqnr"]


def run(line: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(line, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    return done


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from the source distribution, which is built from a copy of what the repository holds."""
    folder = tmp_path_factory.mktemp("dist")
    files = subprocess.run(["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=ROOT, capture_output=True, check=False)
    if files.returncode:
        pytest.skip("not a git checkout")
    source = folder / "source"
    for name in filter(None, files.stdout.decode().split("\0")):
        origin = Path(ROOT) / name
        if origin.is_file() and not name.startswith(("tests/", "results/", "docs/")):
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes(origin.read_bytes())
    run([sys.executable, "-c", BUILD.format("sdist", str(folder))], source)
    archive = next(folder.glob("*.tar.gz"))
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    run([sys.executable, "-c", BUILD.format("wheel", str(folder))], folder / archive.name.removesuffix(".tar.gz"))
    return next(folder.glob("*.whl"))


def test_a_fresh_environment_searches_with_the_wheel(wheel: Path, tmp_path: Path) -> None:
    fresh = tmp_path / "fresh"
    venv.create(fresh)
    scheme = {"base": str(fresh), "platbase": str(fresh)}
    packages = Path(sysconfig.get_path("purelib", vars=scheme))
    # What pmq requires is taken from here: installing torch again would take minutes. Our own editable install is not,
    # for the interpreter follows such links only from folders of its own.
    (packages / "requirements.pth").write_text(sysconfig.get_path("purelib") + "\n")
    pip = [sys.executable, "-m", "pip", "--python", str(fresh), "install", "--quiet", "--no-deps", "--no-index"]
    run([*pip, str(wheel)], tmp_path)
    python = Path(sysconfig.get_path("scripts", vars=scheme)) / "python"
    where = run([str(python), "-c", "import pmq; print(pmq.__file__)"], tmp_path).stdout
    assert Path(where.strip()).is_relative_to(packages)
    done = run([str(python.with_name("pmq")), *SEARCH, "--out", "run", "--json"], tmp_path)
    answer = json.loads(done.stdout)
    assert (tmp_path / answer["allocation"]).is_file()
    assert (tmp_path / "run" / "report.html").is_file()


def test_the_version_comes_from_one_place(wheel: Path) -> None:
    from pmq.core.allocation import pmq_version

    assert wheel.name.split("-")[1] == pmq_version()
