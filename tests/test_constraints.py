"""What jaxft needs is declared and pinned: the files of pins agree with pyproject.toml and with what is installed."""

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from importlib import metadata

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.conftest import REPOSITORY

PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
NEEDED = [Requirement(line) for line in PROJECT["dependencies"]]
EXTRAS = {name: list(map(Requirement, lines)) for name, lines in PROJECT["optional-dependencies"].items()}
CONSTRAINTS = REPOSITORY / "constraints.txt"
RELEASE, BUILD = REPOSITORY / "requirements/linux-cpu.txt", REPOSITORY / "requirements/build.txt"
OPTIONAL = {"matplotlib", "pandas", "peft", "torch", "wandb"}  # jaxft asks for them where it uses them
TESTS = {canonicalize_name(requirement.name) for requirement in EXTRAS["test"]}
INSTALL = "install by `pip install -c constraints.txt -e '.[test]'`, or pin by `make constraints`"


def read_pins(path) -> dict[str, Requirement]:
    """Requirements by name; their hashes are left out."""
    lines = [line.removesuffix("\\").strip() for line in path.read_text(encoding="utf-8").splitlines()]
    pins = [Requirement(line) for line in lines if line and not line.startswith(("#", "--hash="))]
    assert all(re.fullmatch(r"==[^*,]+", str(pin.specifier)) and not pin.extras for pin in pins), path
    return {canonicalize_name(pin.name): pin for pin in pins}


def reached(requirements: list[Requirement]) -> Iterator[tuple[str, str | None]]:
    """Name and version, None if it is not installed, of each package that `requirements` lead to."""
    waiting, seen = list(requirements), set()
    while waiting:
        requirement = waiting.pop()
        for extra in ("", *requirement.extras):
            name = canonicalize_name(requirement.name)
            if (name, extra) in seen:
                continue
            seen.add((name, extra))
            try:
                package = metadata.distribution(name)
            except metadata.PackageNotFoundError:
                yield name, None
                continue
            yield name, package.version
            for child in map(Requirement, package.requires or ()):
                if child.marker is None or child.marker.evaluate({"extra": extra}):
                    waiting.append(child)


def unpinned(pins: dict[str, Requirement], requirements: list[Requirement]) -> list[str]:
    """A line for each package that is installed and not pinned at its version, or that is not installed."""
    lines = set()
    for name, version in reached(requirements):
        if version is None:
            lines.add(f"{name} is not installed")
        elif name not in pins:
            lines.add(f"{name} {version} is installed and not pinned")
        elif not pins[name].specifier.contains(version, prereleases=True):
            lines.add(f"{name} {version} is installed, {pins[name].specifier} is pinned")
    return sorted(lines)


def test_all_that_is_installed_for_jaxft_and_its_tests_is_pinned_at_its_version():
    python = re.search(r"Python (\d+\.\d+)", CONSTRAINTS.read_text(encoding="utf-8"))[1]
    if python != ".".join(map(str, sys.version_info[:2])):
        pytest.skip(f"constraints.txt holds what is tested with Python {python}")
    lines = unpinned(read_pins(CONSTRAINTS), NEEDED + EXTRAS["test"])
    assert not lines, f"constraints.txt is not what runs: {'; '.join(lines)}: {INSTALL}"


def test_a_package_without_its_pin_or_with_another_version_is_noticed():
    pins = read_pins(CONSTRAINTS)
    del pins["markdown-it-py"]  # which rich needs
    pins["numpy"] = Requirement("numpy==1.0")
    lines = unpinned(pins, NEEDED)
    assert [line.split()[0] for line in lines] == ["markdown-it-py", "numpy"]
    assert unpinned(pins, [Requirement("no-such-package")]) == ["no-such-package is not installed"]


@pytest.mark.parametrize("extra", ["", *EXTRAS])
def test_all_that_is_declared_is_pinned(extra):
    pins = read_pins(CONSTRAINTS)
    for requirement in EXTRAS[extra] if extra else NEEDED:
        pin = pins.get(canonicalize_name(requirement.name))
        version = str(pin.specifier).removeprefix("==") if pin else ""
        assert pin and requirement.specifier.contains(version, prereleases=True), (
            f"constraints.txt pins {pin}, pyproject.toml asks for {requirement}: run `make constraints`"
        )


def test_a_release_has_hashes_of_all_that_it_needs_at_the_pinned_versions_and_no_torch():
    pins, release = read_pins(CONSTRAINTS), read_pins(RELEASE)
    missing = {name for name, _ in reached(NEEDED)} - release.keys()
    assert not missing, (
        f"requirements/linux-cpu.txt has no {', '.join(sorted(missing))}: run `make constraints`"
    )
    assert not [name for name in release if re.match(r"torch|nvidia|triton|libtpu|pytest", name)]
    for path, hashed in ((RELEASE, release), (BUILD, read_pins(BUILD))):
        text = path.read_text(encoding="utf-8")
        for name, pin in hashed.items():
            assert pin.specifier == pins.get(name, pin).specifier, (
                f"{path.name}: {pin}: run `make constraints`"
            )
            assert re.search(rf"^{name}==.*\\\n +--hash=sha256:[0-9a-f]{{64}}\b", text, re.MULTILINE), pin


@pytest.mark.parametrize("path", [CONSTRAINTS, RELEASE, BUILD], ids=lambda path: path.name)
def test_no_file_of_pins_names_an_index_or_a_path(path):
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    bad = [line for line in lines if "/" in line or "@" in line or re.search(r"--(?!hash=)", line)]
    assert not bad, f"{path.name} is for everybody, and has {bad[:3]}"


@pytest.mark.parametrize("folder, more", [("jaxft", OPTIONAL), ("configs", OPTIONAL), ("tests", TESTS)])
def test_all_that_is_imported_is_declared(folder, more):
    declared = {canonicalize_name(requirement.name) for requirement in NEEDED} | more
    of_checkout = {"jaxft", "tests"} | {path.stem for path in (REPOSITORY / "benchmarks").glob("*.py")}
    providers = metadata.packages_distributions()
    for path in sorted((REPOSITORY / folder).rglob("*.py")):
        imported = set()
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                imported.add(node.module.split(".")[0])
        for module in imported - sys.stdlib_module_names - of_checkout:
            packages = set(map(canonicalize_name, providers.get(module, [module])))
            assert packages & declared, f"{path} imports {module}, which pyproject.toml does not declare"
