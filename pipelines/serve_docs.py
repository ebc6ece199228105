"""The page of the interface, made from its OpenAPI description.

One file without outside assets: the usual viewers load theirs from a content delivery network.
"""

from collections.abc import Mapping
from typing import Any

from pipelines.html_page import render_page
from pipelines.problems import KINDS


def render_docs(openapi: Mapping[str, Any]) -> str:
    """The page as text."""
    return render_page(
        "serve-docs.html",
        title="resray: the interface",
        operations=[
            {
                "method": method.upper(),
                "path": path,
                "summary": operation.get("summary", ""),
                "body": operation.get("requestBody", {}).get("description", ""),
                "parameters": [_parameter(each) for each in operation.get("parameters", [])],
            }
            for path, methods in openapi["paths"].items()
            for method, operation in methods.items()
        ],
        description=openapi["info"].get("description", ""),
        problems=list(KINDS.values()),
    )


def _parameter(described: Mapping[str, Any]) -> dict[str, str]:
    schema = described["schema"]
    kinds = [each.get("type") for each in schema.get("anyOf", [schema])]
    values = schema.get("enum")
    return {
        "name": described["name"],
        "where": described["in"],
        "kind": ", ".join(values) if values else " or ".join(k for k in kinds if k != "null"),
        "default": str(schema["default"]) if "default" in schema else "",
        "description": described.get("description", ""),
    }
