"""What gets installed: its licences and its known holes. Fails on what `.ci/supply.toml` does not allow.

    python .ci/supply.py licences     a table of every installed package; fails on licences nobody allowed
    python .ci/supply.py holes        fails on known vulnerabilities of what is installed, or what pyproject.toml admits

Holes are asked of pip-audit, at PyPI, else at OSV. Behind an index that has no such data nothing is answered, and
pip-audit still ends with 0: so a release with a hole that everybody knows is asked for too. Where even that comes back
clean, nothing was learnt; the step says so and rests on the advisories recorded in `.ci/supply.toml`. With
EMORIG_AUDIT=required it fails then.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from importlib.metadata import Distribution, distributions
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[1]
SETTINGS = Path(__file__).with_name("supply.toml")
OURS = "emorig-diffusers"
KNOWN_BAD = "pillow", "9.0.0"
"""A release with holes that every source of vulnerability data lists (CVE-2022-22817, among others)."""
SERVICES = ("pypi", "osv")
ANY = "any"
"""Stands for every hole, or licence, of a package that is not ours to choose."""
TIMEOUT = 600  # seconds for all of pip-audit's answers
_LONGEST = 60  # characters of a licence's name; what is longer is its text


@dataclass(frozen=True)
class Package:
    """An installed distribution: normalised name, public version (without "+cpu"), and its licences."""

    name: str
    version: str
    licences: tuple[str, ...]


@dataclass(frozen=True)
class Hole:
    """A known vulnerability of a package: its ids (the first is shown), and where it was learnt."""

    package: str
    version: str
    ids: tuple[str, ...]
    source: str


def normal(name: str) -> str:
    """A package's name as indexes compare it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def installed(settings: Mapping[str, Any]) -> list[Package]:
    """Every distribution of this environment but our own, in the order of names."""
    found = {}
    for one in distributions():
        name = normal(one.metadata["Name"])
        if name != OURS:
            licences = tuple(licences_of(one, settings["licences"]["names"]))
            found[name] = Package(name, Version(one.version).public, licences)
    return [found[name] for name in sorted(found)]


def licences_of(one: Distribution, names: Mapping[str, str]) -> list[str]:
    """The licences that a distribution names, all of an expression's; empty where it names none.

    Args:
        names: What packages write -> SPDX identifier.
    """
    meta = one.metadata
    if expression := meta.get("License-Expression"):
        return sorted(set(re.split(r"\s+(?:AND|OR)\s+", re.sub(r"[()]", "", expression))))
    kinds = [c.split(" :: ")[-1] for c in meta.get_all("Classifier") or [] if c.startswith("License :: ")]
    text = (meta.get("License") or "").strip()
    told = {names.get(word, word) for word in kinds if word != "OSI Approved"}
    if text and "\n" not in text and len(text) <= _LONGEST:
        told |= set(re.split(r"\s+(?:AND|OR)\s+", names.get(text, text)))
    exact = {name for name in told if name.startswith("BSD-")}
    return sorted(told - {"BSD"} if exact else told)  # the classifier tells less than the text


def check_licences(packages: Sequence[Package], settings: Mapping[str, Any]) -> Iterator[str]:
    """A sentence for each licence that is not allowed."""
    rules = settings["licences"]
    for package in packages:
        excused = {entry["licence"] for entry in _exceptions(package, settings)}
        for licence in package.licences or ("no licence named",):
            if licence not in rules["allowed"] and not {licence, ANY} & excused:
                yield f"{package.name} {package.version}: {licence} is not among the allowed licences."


def _exceptions(package: Package, settings: Mapping[str, Any]) -> list[Mapping[str, str]]:
    """Entries for a package, whose names may end with an asterisk."""
    entries = settings["licences"].get("exceptions", [])
    return [entry for entry in entries if fnmatchcase(package.name, normal(entry["package"]))]


def licence_table(packages: Sequence[Package], settings: Mapping[str, Any]) -> Iterator[str]:
    """Every package with version and licences, and why an exception is one."""
    rules = settings["licences"]
    bundled = {normal(x["package"]): f"  (bundles: {x['licence']}, {x['why']})" for x in rules.get("bundled", [])}
    for package in packages:
        why = [f"  ({one['licence']}: {one['why']})" for one in _exceptions(package, settings)]
        notes = "".join(why) + bundled.get(package.name, "")
        yield f"{package.name:28}{package.version:20}{' AND '.join(package.licences) or '?'}{notes}"


def recorded_holes(versions: Mapping[str, str], settings: Mapping[str, Any], source: str) -> Iterator[Hole]:
    """Holes that the recorded advisories know in these versions."""
    for advisory in settings["holes"]["advisories"]:
        name = normal(advisory["package"])
        if name in versions and Version(versions[name]) < Version(advisory["below"]):
            yield Hole(name, versions[name], (advisory["id"],), source)


def declared_minimums() -> dict[str, str]:
    """Package -> the least version that pyproject.toml admits, where it says one."""
    content = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    project, build = content["project"], content["build-system"]["requires"]
    extras = [line for extra in project["optional-dependencies"].values() for line in extra]
    lines = [*project["dependencies"], *extras, *build]
    least: dict[str, str] = {}
    for requirement in map(Requirement, lines):
        for bound in requirement.specifier:
            if bound.operator in (">=", "=="):
                name, before = normal(requirement.name), least.get(normal(requirement.name))
                least[name] = bound.version if before is None else min(before, bound.version, key=Version)
    return least


def ask(packages: Sequence[Package], service: str, command: Sequence[str]) -> dict[str, Any] | None:
    """pip-audit's answer about packages and KNOWN_BAD; `None` where it gives none."""
    wanted = {(p.name, p.version) for p in packages}
    answers: list[dict[str, Any]] = []
    for lines in ([KNOWN_BAD], sorted(wanted)):  # apart: requirements hold one version of a package
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "requirements.txt"
            file.write_text("".join(f"{name}=={version}\n" for name, version in lines))
            options = ["-r", str(file), "--no-deps", "--disable-pip", "-f", "json", "-s", service]
            try:
                run = subprocess.run([*command, *options], capture_output=True, text=True, timeout=TIMEOUT)
                answers.append(json.loads(run.stdout))
            except (OSError, ValueError, subprocess.TimeoutExpired):
                return None
        if not answers[0]["dependencies"] or not answers[0]["dependencies"][0].get("vulns"):
            return None
    return answers[1]


def live_holes(packages: Sequence[Package], command: Sequence[str]) -> tuple[str, list[Hole], list[str]] | None:
    """Service that knew KNOWN_BAD's hole, all holes it knows, and packages it does not know; `None` where none did."""
    for service in SERVICES:
        answer = ask(packages, service, command)
        if answer is not None:
            known = [one for one in answer["dependencies"] if "skip_reason" not in one]
            holes = [
                Hole(normal(one["name"]), one["version"], (found["id"], *found.get("aliases", ())), service)
                for one in known
                for found in one["vulns"]
            ]
            unknown = {p.name for p in packages} - {normal(one["name"]) for one in known}
            return service, holes, sorted(unknown)
    return None


def check_holes(holes: Sequence[Hole], settings: Mapping[str, Any]) -> Iterator[str]:
    """A sentence for each hole that is not allowed."""
    excused = {(normal(x["package"]), x["id"]) for x in settings["holes"].get("allowed", [])}
    for hole in holes:
        if not any((hole.package, one) in excused for one in (*hole.ids, ANY)):
            yield f"{hole.package} {hole.version} has a known hole: {', '.join(hole.ids)} (told by {hole.source})."


def run_licences(settings: Mapping[str, Any]) -> list[str]:
    """Print the table; what is wrong."""
    packages = installed(settings)
    print(*licence_table(packages, settings), sep="\n")
    return list(check_licences(packages, settings))


def run_holes(settings: Mapping[str, Any], command: Sequence[str]) -> list[str]:
    """Print what was asked of whom; what is wrong."""
    packages, rules = installed(settings), settings["holes"]
    date = rules["recorded"]
    holes = [
        *recorded_holes({p.name: p.version for p in packages}, settings, f"the advisories recorded on {date}"),
        *recorded_holes(declared_minimums(), settings, f"pyproject.toml's minimum and advisories of {date}"),
    ]
    live, wrong = live_holes(packages, command), []
    if live is None:
        print(
            f"supply: NO VULNERABILITY DATA was reached: neither {' nor '.join(SERVICES)} knows the holes of "
            f"{'=='.join(KNOWN_BAD)}. Checked are only the {len(rules['advisories'])} advisories recorded on {date}."
        )
        if os.environ.get("EMORIG_AUDIT") == "required":
            wrong.append("EMORIG_AUDIT=required asks for vulnerability data, and there was none.")
    else:
        service, found, unknown = live
        holes += found
        print(f"supply: {len(packages) - len(unknown)} of {len(packages)} packages were looked up at {service}.")
        wrong += [f"{name} is not known at {service}: nobody would tell its holes." for name in unknown]
    return [*wrong, *check_holes(holes, settings)]


def main(argv: Sequence[str], command: Sequence[str] = (sys.executable, "-m", "pip_audit")) -> int:
    """Exit code of `supply.py licences` or `supply.py holes`: 1 where something is wrong, each in a line on stderr."""
    settings = tomllib.loads(SETTINGS.read_text("utf-8"))
    if list(argv) not in (["licences"], ["holes"]):
        raise SystemExit("supply.py: say licences or holes.")
    wrong = run_licences(settings) if argv[0] == "licences" else run_holes(settings, command)
    for line in dict.fromkeys(wrong):
        print(f"supply: {line}", file=sys.stderr)
    print(f"supply: {argv[0]}: {'ok' if not wrong else 'FAILED, see .ci/supply.toml'}.")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
