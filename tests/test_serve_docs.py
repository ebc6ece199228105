"""The page of the interface: every operation, escaped, with an anchor for each problem."""

from pipelines.problems import KINDS
from pipelines.serve_docs import render_docs


def test_a_description_becomes_a_page() -> None:
    parameter = {
        "name": "<size>",
        "in": "query",
        "description": "so & `so`",
        "schema": {"anyOf": [{"type": "integer"}, {"type": "null"}], "default": 3},
    }
    operation = {"summary": "A thing", "parameters": [parameter]}
    text = render_docs({"info": {}, "paths": {"/thing": {"get": operation}}})
    assert "GET /thing" in text
    assert "&lt;size&gt;" in text
    assert "<size>" not in text
    assert 'so &amp; <span class="mono">so</span>' in text
    assert "`" not in text.partition("<script")[0]
    assert "<td>integer</td><td>3</td>" in text
    assert all(f'id="{slug}"' in text for slug in KINDS)
