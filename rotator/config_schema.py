"""The configuration's JSON Schema, for editors that complete and check while somebody types.

It is made from the models that check the configuration, and from the settings of every type of sink that
is installed. It says less than `load` does: what hangs on two keys, on the clock's zones or on the
environment is no matter for an editor.
"""

from __future__ import annotations

from datetime import timedelta
from types import GenericAlias
from typing import Annotated, Any, Literal, Union

from pydantic import Field, create_model
from pydantic.errors import PydanticInvalidForJsonSchema
from pydantic.json_schema import GenerateJsonSchema

from rotator.errors import NeedsPerson
from rotator.fields import SecretRef, Settings
from rotator.settings import NAME_PATTERN, Document, NeonSettings, PolicySettings
from rotator.sinks import sink_class, sink_types
from rotator.words import span

DIALECT = "https://json-schema.org/draft/2020-12/schema"
_SECRET_KEYS = {
    "env": "The name of an environment variable that holds the secret.",
    "file": "The path of a file that holds the secret alone.",
    "credential": "The name of one of systemd's credentials.",
}


class _Schema(GenerateJsonSchema):
    """Writes a duration that is a default as a user would."""

    def encode_default(self, dft: Any) -> Any:
        if isinstance(dft, timedelta):
            return span(dft).replace(" ", "")
        return super().encode_default(dft)


def json_schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of the whole configuration."""
    sinks = [_sink(kind) for kind in sorted(sink_types())]
    any_sink: Any = Annotated[Union[tuple(sinks)], Field(discriminator="type")]  # noqa: UP007
    of_document = Document.model_fields
    parts: dict[str, Any] = {
        "neon": (NeonSettings, of_document["neon"]),
        "sinks": (GenericAlias(dict, (str, any_sink)), of_document["sinks"]),
        "policies": (dict[str, PolicySettings], of_document["policies"]),
    }
    whole = create_model("Configuration", __base__=Document, **parts)
    schema = whole.model_json_schema(schema_generator=_Schema)
    for key in ("sinks", "policies"):
        schema["properties"][key]["propertyNames"] = {"pattern": NAME_PATTERN}
    schema["$defs"][SecretRef.__name__] = {
        "title": SecretRef.__name__,
        "description": "Where a secret is: one of these keys. A secret is never written in the configuration.",
        "type": "object",
        "properties": {
            key: {"type": "string", "minLength": 1, "description": text} for key, text in _SECRET_KEYS.items()
        },
        "additionalProperties": False,
        "minProperties": 1,
        "maxProperties": 1,
    }
    return {"$schema": DIALECT, **schema, "title": "The configuration of rotator"}


class _Anything(Settings, extra="allow"):
    """A sink that does not say what it takes."""


def _sink(kind: str) -> type[Settings]:
    """The settings of a type of sink, with its type."""
    base = _settings(kind)
    key: Any = (Literal[kind], Field(description="What kind of place this is."))
    return create_model(f"{kind.title()}Sink", __base__=base, __doc__=base.__doc__, type=key)


def _settings(kind: str) -> type[Settings]:
    try:
        settings = sink_class(kind).Settings
        settings.model_json_schema()
    except (NeedsPerson, PydanticInvalidForJsonSchema):
        return _Anything  # a package that is half installed must not cost the schema of the rest
    return settings
