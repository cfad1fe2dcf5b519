"""A package of somebody else that brings sinks, as pip would leave it."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from pathlib import Path


def install(site: Path, name: str, text: str, types: Mapping[str, str]) -> None:
    """Put a module there, and metadata that offers these types of sinks, each with `module:class`."""
    metadata = site / f"{name}-1.0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    offers = [f"{kind} = {where}" for kind, where in types.items()]
    (metadata / "entry_points.txt").write_text("\n".join(["[rotator.sinks]", *offers, ""]))
    (site / f"{name}.py").write_text(textwrap.dedent(text))
