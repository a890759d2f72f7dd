"""The files around the package agree with each other."""

import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
TOC = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))


def tracked() -> list[str]:
    try:
        listing = subprocess.run(["git", "-C", ROOT, "ls-files"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    return [name for name in listing.stdout.splitlines() if (ROOT / name).is_file()]


def test_environment_yml_installs_what_pyproject_says():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    python = next(entry for entry in environment["dependencies"] if str(entry).startswith("python "))
    assert python.split(" ", 1)[1] == PROJECT["requires-python"]
    pip = next(entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict))
    (editable,) = pip
    assert set(re.fullmatch(r"-e \.\[(.*)\]", editable)[1].split(",")) == set(PROJECT["optional-dependencies"])


def test_the_lock_satisfies_pyproject_and_names_no_index():
    text = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    assert "://" not in text and "--" not in text
    pins: dict[str, list[str]] = {}
    for line in text.splitlines():
        requirement = Requirement(line)
        (pin,) = requirement.specifier
        assert pin.operator == "==", line
        pins.setdefault(requirement.name.lower(), []).append(pin.version)
    wanted = PROJECT["dependencies"] + [entry for extra in PROJECT["optional-dependencies"].values() for entry in extra]
    for requirement in map(Requirement, wanted):
        if requirement.name == PROJECT["name"]:
            continue  # an extra that takes in others
        for version in pins[requirement.name.lower()]:
            assert requirement.specifier.contains(version), f"{requirement} is locked at {version}"


def test_the_version_is_one():
    version = PROJECT["version"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == version
    assert f"## {version} " in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_every_chapter_in_the_contents_exists():
    files = re.findall(r"- file: (\S+)", (ROOT / "_toc.yml").read_text(encoding="utf-8"))
    assert files and all((ROOT / file).is_file() for file in files)
    notebooks = {path.relative_to(ROOT).as_posix() for path in (ROOT / "book").rglob("*.ipynb")}
    assert {file for file in files if file.endswith(".ipynb")} == {
        n for n in notebooks if ".ipynb_checkpoints" not in n
    }


def test_no_file_holds_a_path_of_one_machine():
    own = re.compile(r"(?<![\w.])/(?:home|Users|root|tmp|work)/\w|[A-Z]:\\\\Users")
    for name in tracked():
        if name.endswith((".png", ".svg", ".safetensors")):
            continue
        found = own.search((ROOT / name).read_text(encoding="utf-8"))
        assert found is None, f"{name}: {found[0]}"


def test_the_readme_shows_commands_that_exist():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in set(re.findall(r"make (book|test|lab)\b", readme)):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)
    for script in re.findall(r"^make (\w+)", readme, re.MULTILINE):
        assert f"make {script}" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")
