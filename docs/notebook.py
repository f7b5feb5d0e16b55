"""Run docs/emorig.ipynb from top to bottom, without Jupyter, and keep what its cells show: python docs/notebook.py"""

from __future__ import annotations

import ast
import base64
import contextlib
import io
import json
import os
import tempfile
from pathlib import Path
from typing import Any

from PIL import Image

NOTEBOOK = Path(__file__).with_name("emorig.ipynb")
QUALITY = 85  # of JPEG, in which pictures are kept: a tenth of Jupyter's PNG


def run_notebook(notebook: dict[str, Any]) -> dict[str, Any]:
    """Run the cells of a notebook, in the present folder, and put what they show into it; the names they define."""
    names: dict[str, Any] = {}
    for count, cell in enumerate((cell for cell in notebook["cells"] if cell["cell_type"] == "code"), 1):
        cell["execution_count"], cell["outputs"] = count, []
        body = ast.parse("".join(cell["source"]))
        last = body.body.pop() if body.body and isinstance(body.body[-1], ast.Expr) else None
        with contextlib.redirect_stdout(io.StringIO()) as said:
            exec(compile(body, f"cell {count}", "exec"), names)
            shown = None if last is None else eval(compile(ast.Expression(last.value), f"cell {count}", "eval"), names)
        if said.getvalue():
            text = said.getvalue().splitlines(keepends=True)
            cell["outputs"].append({"name": "stdout", "output_type": "stream", "text": text})
        if shown is not None:
            result = {
                "data": shown_as(shown),
                "execution_count": count,
                "metadata": {},
                "output_type": "execute_result",
            }
            cell["outputs"].append(result)
    return names


def shown_as(value: Any) -> dict[str, Any]:
    """What a notebook shows of a cell's value, by MIME type."""
    if not isinstance(value, Image.Image):
        return {"text/plain": [repr(value)]}
    jpeg = io.BytesIO()
    value.save(jpeg, "JPEG", quality=QUALITY)
    return {"image/jpeg": base64.b64encode(jpeg.getvalue()).decode(), "text/plain": ["<a picture>"]}


def main() -> None:
    notebook = json.loads(NOTEBOOK.read_text("utf-8"))
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        run_notebook(notebook)
        os.chdir(NOTEBOOK.parent)
    NOTEBOOK.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", "utf-8")


if __name__ == "__main__":
    main()
