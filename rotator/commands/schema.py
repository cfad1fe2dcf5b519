"""`rotator schema`: what editors need to check and complete a configuration."""

from __future__ import annotations

import click

from rotator.commands.common import print_json


@click.command()
def schema() -> None:
    """Print the configuration's JSON Schema, for editors.

    Save it beside the configuration, and let that begin with the line

    \b
        # yaml-language-server: $schema=./rotator.schema.json
    """
    from rotator.config import json_schema

    print_json(json_schema())
