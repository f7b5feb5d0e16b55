"""`.ci/supply.py`: licences that nobody allowed and known holes fail, and silence is not taken for safety."""

from __future__ import annotations

import importlib.util
import json
import sys
import tomllib
from email.message import Message
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[1] / ".ci/supply.py"


@pytest.fixture(scope="module")
def supply() -> ModuleType:
    spec = importlib.util.spec_from_file_location("supply", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules["supply"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def settings(supply: ModuleType) -> dict[str, Any]:
    return tomllib.loads(supply.SETTINGS.read_text())


@pytest.fixture
def environment(supply: ModuleType, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What is installed: these alone."""
    found: list[Any] = []
    monkeypatch.setattr(supply, "distributions", lambda: found)
    monkeypatch.delenv("EMORIG_AUDIT", raising=False)
    return found


def distribution(name: str, version: str = "1.0", **fields: Any) -> SimpleNamespace:
    meta = Message()
    meta["Name"] = name
    for key, values in fields.items():
        for value in values if isinstance(values, list) else [values]:
            meta[key.replace("_", "-")] = value
    return SimpleNamespace(metadata=meta, version=version)


# licences


@pytest.mark.parametrize(
    ("fields", "licences"),
    [
        ({"License_Expression": "MPL-2.0 AND (Apache-2.0 OR MIT)"}, ["Apache-2.0", "MIT", "MPL-2.0"]),
        ({"License_Expression": "Apache-2.0 WITH LLVM-exception"}, ["Apache-2.0 WITH LLVM-exception"]),
        ({"Classifier": "License :: OSI Approved :: Apache Software License"}, ["Apache-2.0"]),
        ({"Classifier": "License :: OSI Approved :: BSD License", "License": "BSD-3-Clause"}, ["BSD-3-Clause"]),
        ({"License": "MIT License\n\nPermission is hereby granted"}, []),
        ({"License": "GPL", "Classifier": "License :: OSI Approved :: MIT License"}, ["GPL", "MIT"]),
        ({"Classifier": "Programming Language :: Python"}, []),
    ],
)
def test_licences_of_a_package(
    supply: ModuleType, settings: dict[str, Any], fields: dict[str, Any], licences: list[str]
) -> None:
    assert supply.licences_of(distribution("x", **fields), settings["licences"]["names"]) == licences


def test_what_nobody_allowed_fails(
    supply: ModuleType, environment: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    environment += [
        distribution("Good", License_Expression="MIT"),
        distribution("emorig-diffusers", License="whatever"),
    ]
    assert supply.main(["licences"]) == 0
    copyleft = distribution("Alpha.Pack", "0.9", License_Expression="GPL-3.0-or-later")
    environment += [copyleft, distribution("silent")]
    assert supply.main(["licences"]) == 1
    captured = capsys.readouterr()
    assert "alpha-pack 0.9: GPL-3.0-or-later is not among the allowed licences." in captured.err
    assert "silent 1.0: no licence named is not among" in captured.err and "good" not in captured.err
    assert captured.out.count("good") == 2 and "licences: FAILED" in captured.out


def test_an_exception_holds_for_one_package_and_licence_and_says_why(
    supply: ModuleType, settings: dict[str, Any], environment: list[Any]
) -> None:
    classifier = "License :: OSI Approved :: GNU Lesser General Public License v3 (LGPLv3)"
    lgpl = {"License": "BSD-3-Clause", "Classifier": classifier}
    environment += [distribution("pi_heif", **lgpl), distribution("other", **lgpl)]
    packages = supply.installed(settings)
    assert [line.split()[0] for line in supply.check_licences(packages, settings)] == ["other"]
    assert "which anybody can replace" in next(
        row for row in supply.licence_table(packages, settings) if "pi-heif" in row
    )


def test_torch_for_gpus_may_bring_cuda(supply: ModuleType, settings: dict[str, Any], environment: list[Any]) -> None:
    environment += [
        distribution("nvidia-cublas", License="LicenseRef-NVIDIA-Proprietary"),
        distribution("cuda-toolkit"),
        distribution("not-nvidia-cublas", License="LicenseRef-NVIDIA-Proprietary"),
    ]
    packages = supply.installed(settings)
    assert [line.split()[0] for line in supply.check_licences(packages, settings)] == ["not-nvidia-cublas"]
    assert sum("never shipped by us" in row for row in supply.licence_table(packages, settings)) == 2


def test_every_entry_says_why(settings: dict[str, Any]) -> None:
    licences, holes = settings["licences"], settings["holes"]
    entries = [*licences["exceptions"], *licences["bundled"], *holes["allowed"]]
    assert entries and all(len(entry["why"].split()) >= 5 for entry in entries)
    assert set(licences["names"].values()) - {"LGPL-3.0", "GPL-3.0"} <= set(licences["allowed"])


# holes; a script stands for pip-audit, with answers of its shape

ANSWERS = """
import json, sys
asked = dict(line.split("==") for line in open(sys.argv[sys.argv.index("-r") + 1]).read().split())
known, service = json.loads({known!r}), sys.argv[sys.argv.index("-s") + 1]
if service not in known:
    sys.exit("no such host")
skip = {{"skip_reason": "Dependency not found on PyPI and could not be audited"}}
tell = lambda name, version: {{"version": version, "vulns": known[service][name]}} if name in known[service] else skip
print(json.dumps({{"dependencies": [{{"name": n}} | tell(n, v) for n, v in asked.items()], "fixes": []}}))
"""


def hole(identifier: str, *aliases: str) -> dict[str, Any]:
    return {"id": identifier, "fix_versions": ["9.0.1"], "aliases": list(aliases), "description": "It is bad."}


def audit(folder: Path, known: dict[str, dict[str, list[dict[str, Any]]]]) -> list[str]:
    """The command of a pip-audit that knows these packages' holes, by service."""
    script = folder / "audit.py"
    script.write_text(ANSWERS.format(known=json.dumps(known)))
    return [sys.executable, str(script)]


BAD = {"pillow": [hole("PYSEC-2022-10", "CVE-2022-22817")]}


def test_a_known_hole_fails(
    supply: ModuleType, environment: list[Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    environment += [distribution("safe"), distribution("Leaky", "2.0+cpu")]
    command = audit(tmp_path, {"pypi": BAD | {"safe": [], "leaky": [hole("PYSEC-2026-1", "CVE-2026-1")]}})
    assert supply.main(["holes"], command) == 1
    captured = capsys.readouterr()
    assert captured.err == "supply: leaky 2.0 has a known hole: PYSEC-2026-1, CVE-2026-1 (told by pypi).\n"
    assert "2 of 2 packages were looked up at pypi" in captured.out


def test_an_allowed_hole_passes_by_any_of_its_ids(
    supply: ModuleType, environment: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = '[[holes.allowed]]\npackage = "Leaky"\nid = "CVE-1"\nwhy = "we never call that part of it"\n'
    (tmp_path / "supply.toml").write_text(supply.SETTINGS.read_text() + entry)
    monkeypatch.setattr(supply, "SETTINGS", tmp_path / "supply.toml")
    environment += [distribution("leaky"), distribution("pip", "23.2.1")]
    holes = BAD | {"leaky": [hole("PYSEC-1", "CVE-1")], "pip": [hole("PYSEC-7")]}
    assert supply.main(["holes"], audit(tmp_path, {"pypi": holes})) == 0
    holes["leaky"].append(hole("PYSEC-2"))
    assert supply.main(["holes"], audit(tmp_path, {"pypi": holes})) == 1


def test_the_second_service_is_asked_where_the_first_knows_nothing(
    supply: ModuleType, environment: list[Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    environment.append(distribution("leaky"))
    assert supply.main(["holes"], audit(tmp_path, {"pypi": {}, "osv": BAD | {"leaky": [hole("X-1")]}})) == 1
    assert "told by osv" in capsys.readouterr().err


@pytest.mark.parametrize("known", [{}, {"pypi": {}}, {"pypi": {"pillow": [], "safe": []}}], ids=str)
def test_silence_is_told_and_recorded_advisories_still_count(
    supply: ModuleType, environment: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str], known: dict[str, Any],
) -> None:  # fmt: skip
    """No service, an index without such data, and one that calls even the known hole clean."""
    environment.append(distribution("safe"))
    command = audit(tmp_path, known)
    assert supply.main(["holes"], command) == 0
    assert "NO VULNERABILITY DATA was reached" in capsys.readouterr().out
    monkeypatch.setenv("EMORIG_AUDIT", "required")
    assert supply.main(["holes"], command) == 1
    monkeypatch.delenv("EMORIG_AUDIT")
    environment.append(distribution("torch", "2.5.1+cpu"))
    assert supply.main(["holes"], command) == 1
    assert "torch 2.5.1 has a known hole: CVE-2025-32434 (told by the advisories" in capsys.readouterr().err


def test_a_package_that_no_index_knows_fails(
    supply: ModuleType, environment: list[Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    environment += [distribution("safe"), distribution("homemade")]
    assert supply.main(["holes"], audit(tmp_path, {"pypi": BAD | {"safe": []}})) == 1
    assert "homemade is not known at pypi" in capsys.readouterr().err


def test_minimums_admit_no_recorded_hole(supply: ModuleType, settings: dict[str, Any]) -> None:
    least = supply.declared_minimums()
    assert {"torch", "gradio", "setuptools"} <= set(least)
    assert not list(supply.recorded_holes(least, settings, ""))
    assert [hole.package for hole in supply.recorded_holes(least | {"gradio": "4.0"}, settings, "")] == ["gradio"]
