"""Where pipelines come from and how they get there: bundled names, folders, Hub ids; export and push.

Hub layout: what `save_pretrained` writes, plus one line of code for each of our classes (a *shim*: it imports
the class from the installed package), named in model_index.json as diffusers wants it. Without shims
`DiffusionPipeline.from_pretrained(id)` refuses classes that are not its own, `trust_remote_code=True` or not.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from huggingface_hub import CommitInfo, HfApi, snapshot_download

from .folders import write_folder

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

    from .pipeline_diffae import DiffAEEmotionPipeline
    from .pipeline_emorig import EmoRigPipeline

WEIGHTS = Path(__file__).parent / "weights"
INDEX = "model_index.json"
SHIM = "from {module} import {name}\n"

_PACKAGE = __name__.split(".")[0]
_OURS = re.compile(rf"from {_PACKAGE}(\.\w+)* import \w+\n")
_LIBRARIES = ("diffusers", "transformers")  # diffusers loads these without code in the repository
_DOWNLOAD_ARGUMENTS = ("cache_dir", "force_download", "token", "revision", "local_files_only")

CARD = """---
license: {license}
library_name: diffusers
pipeline_tag: image-to-image
tags:
- emotion
- facial-expression
- face-editing
---

# {title}

Changes the emotion of faces in a photo and keeps the person, with `{pipeline}` for
[diffusers](https://github.com/huggingface/diffusers). The code is the package `{distribution}`; the `.py`
files here only import from it.

```bash
pip install {distribution}
```

```python
from diffusers import DiffusionPipeline

pipe = DiffusionPipeline.from_pretrained(
    "{repo_id}",
    trust_remote_code=True,
    revision="<commit>",  # pin the commit whose files you have read
)
pipe("photo.jpg", emotion="happy", intensity=1.0).images[0].save("happy.png")
```

`{pipeline}.from_pretrained("{repo_id}")` of the package needs no `trust_remote_code`.
{terms}
## Uses and misuses

For photos of people who agree to it: retouching, animation, research on faces. Not for deep-fakes that
deceive anyone about what a person felt or did, nor for impersonation or harassment. Say that a picture was
edited.
"""


TERMS = """
## Licence

{brought}: licensed to each user. Keep this repository private unless their terms allow otherwise.
"""


class HubMixin:
    """Opens a pipeline from a bundled name, a folder or the Hub; goes before DiffusionPipeline in the bases.

    Attributes:
        brought: The models that its weights come from and that are licensed to each user; empty for open weights.
    """

    brought: str

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike, **kwargs: Any) -> Self:
        """As `DiffusionPipeline.from_pretrained`; a bundled name such as "emorig-open" needs no network, and a
        folder or Hub repository whose code only imports from this package needs no `trust_remote_code`."""
        folder = fetch(pretrained_model_name_or_path, **kwargs)
        if kwargs.get("custom_pipeline") is None:
            kwargs.setdefault("trust_remote_code", needs_no_trust(folder))
        pipe = super().from_pretrained(folder, **kwargs)
        pipe.register_to_config(_name_or_path=os.fspath(pretrained_model_name_or_path))
        return pipe


def open_pipeline(name: str | os.PathLike, **kwargs: Any) -> EmoRigPipeline | DiffAEEmotionPipeline:
    """Open whichever of the package's pipelines a bundled name, a folder or a Hub id holds.

    Args:
        name: As for `from_pretrained`.
        kwargs: Likewise.
    """
    from .pipeline_diffae import DiffAEEmotionPipeline
    from .pipeline_emorig import EmoRigPipeline

    index = Path(fetch(name, **kwargs)) / INDEX
    kind = json.loads(index.read_text("utf-8")).get("_class_name") if index.is_file() else None
    kind = kind[-1] if isinstance(kind, list) else kind
    opened = DiffAEEmotionPipeline if kind == DiffAEEmotionPipeline.__name__ else EmoRigPipeline
    return opened.from_pretrained(name, **kwargs)


def bundled() -> list[str]:
    """Names of the pipelines that come with the package."""
    return sorted(p.parent.name for p in WEIGHTS.glob(f"*/{INDEX}"))


def resolve(name: str | os.PathLike) -> str:
    """A bundled name -> its folder: of a pipeline, or of "encoder-open", the open default's other encoder; anything
    else unchanged."""
    name = os.fspath(name)
    return str(WEIGHTS / name) if name in [p.name for p in WEIGHTS.iterdir()] else name


def fetch(name: str | os.PathLike, **options: Any) -> str:
    """The folder of a pipeline: a bundled name's, a folder itself, or a Hub repository's snapshot.

    Args:
        name: Bundled name, folder, or Hub id ("owner/name").
        options: Of `from_pretrained`; `cache_dir`, `force_download`, `token`, `revision`, `local_files_only`
            count, and without `variant` no variant's weights are downloaded.

    Raises:
        HfHubHTTPError, LocalEntryNotFoundError: If the Hub has no such repository, or cannot be reached and
            nothing is cached (both from huggingface_hub.errors).
    """
    folder = resolve(name)
    if os.path.isdir(folder):
        return folder
    return snapshot_download(
        folder,
        allow_patterns=["*.json", "*.txt", "*.py", "*.safetensors"],
        ignore_patterns=None if options.get("variant") else ["*.*.safetensors"],
        **{key: options[key] for key in _DOWNLOAD_ARGUMENTS if options.get(key) is not None},
    )


def needs_no_trust(folder: str | os.PathLike) -> bool:
    """Whether all code in a folder, and all that its index points to, only imports from this package.

    Then running it does no more than `import emorig_diffusers` does, whoever wrote it.
    """
    folder = Path(folder)
    # an index may point out of its folder ("../x"), and diffusers runs some files that no index names
    files = [*_named_files(folder), *folder.rglob("*.py")]
    return all(_OURS.fullmatch(file.read_text("utf-8", "replace")) for file in files if file.is_file())


def _named_files(folder: Path) -> list[Path]:
    """Where diffusers looks for the code of [module, class] entries of the index."""
    file = folder / INDEX
    index = json.loads(file.read_text("utf-8")) if file.is_file() else {}
    modules = {key: value[0] for key, value in index.items() if isinstance(value, list) and value}
    return [folder / ("" if key == "_class_name" else key) / f"{name}.py" for key, name in modules.items()]


def export_hub(pipe: DiffusionPipeline, folder: str | os.PathLike, card: str | None = None) -> Path:
    """Write a pipeline in Hub layout: safetensors, configs, model_index.json, shims and README.md.

    Args:
        pipe: A pipeline of this package.
        folder: A new or empty folder. It appears when it is complete, never in part.
        card: Text of README.md with its front matter; `None` for a short one.

    Returns:
        The folder.

    Raises:
        ValueError: If the folder holds something, or a component is of a class that no user could import.
    """
    return _export(pipe, folder, card, repo_id=None)


def push(
    pipe: DiffusionPipeline,
    repo_id: str,
    card: str | None = None,
    private: bool | None = None,
    token: str | None = None,
    commit_message: str = "Upload pipeline",
) -> CommitInfo:
    """Export a pipeline in Hub layout and upload it to a Hub repository, which is made if need be.

    Args:
        pipe: As for `export_hub`.
        repo_id: "owner/name".
        card: As for `export_hub`; with `None`, a README.md that the repository has already stays.
        private: Whether a new repository is private; `None` for the owner's default.
        token: Hub token that may write; `None` for the one of `hf auth login` or $HF_TOKEN.
        commit_message: First line of the commit.

    Returns:
        The commit; its `oid` is the `revision` to pin.
    """
    api = HfApi(token=token)
    with tempfile.TemporaryDirectory() as scratch:
        folder = _export(pipe, Path(scratch) / "export", card, repo_id)
        repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        keep = card is None and api.file_exists(repo_id, "README.md")
        return api.upload_folder(
            repo_id=repo_id,
            folder_path=folder,
            ignore_patterns="README.md" if keep else None,
            commit_message=commit_message,
        )


def _export(
    pipe: DiffusionPipeline, folder: str | os.PathLike, card: str | None, repo_id: str | None
) -> Path:
    shims, name = _shims(pipe), repo_id or f"<owner>/{Path(folder).absolute().name}"

    def write(part: Path) -> None:
        pipe.save_pretrained(part, safe_serialization=True)
        _add_shims(part, shims)
        (part / "README.md").write_text(card or _card(pipe, name), "utf-8")

    return write_folder(Path(folder), write)


def _shims(pipe: DiffusionPipeline) -> dict[str, type]:
    """Key of model_index.json -> class that needs a shim."""
    classes = {name: type(part) for name, part in pipe.components.items() if part is not None}
    for name, kind in classes.items():
        if kind.__module__.split(".")[0] not in (*_LIBRARIES, _PACKAGE):
            raise ValueError(
                f"The {name} is a {kind.__module__}.{kind.__name__}, which users of the Hub cannot import: "
                f"use a class of {', '.join(_LIBRARIES)} or {_PACKAGE}."
            )
    ours = {name: kind for name, kind in classes.items() if kind.__module__.split(".")[0] == _PACKAGE}
    return {"_class_name": type(pipe), **ours}


def _add_shims(folder: Path, shims: dict[str, type]) -> None:
    """Write the shims, pipeline_emorig.py and unet/unet_emorig.py for example, and name them in the index."""
    entries = {}
    for key, kind in shims.items():
        # diffusers copies the shims of all repositories into one folder, so that their names have to differ
        place, stem = (key, f"{key}_emorig") if key != "_class_name" else ("", kind.__module__.split(".")[-1])
        code = SHIM.format(module=kind.__module__, name=kind.__name__)
        (folder / place / f"{stem}.py").write_text(code, "utf-8")
        entries[key] = [stem, kind.__name__]
    rewrite_json(folder / INDEX, entries)
    for file in folder.glob("*/*config.json"):
        rewrite_json(file, {})


def rewrite_json(file: Path, entries: dict[str, Any]) -> None:
    """Change entries of a JSON file, and forget the folder that a component once came from."""
    content = json.loads(file.read_text("utf-8")) | entries
    content.pop("_name_or_path", None)
    file.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", "utf-8")


def _card(pipe: DiffusionPipeline, repo_id: str) -> str:
    brought = pipe.brought
    return CARD.format(
        license="other" if brought else "apache-2.0",
        terms=TERMS.format(brought=brought) if brought else "",
        title=repo_id.split("/")[-1],
        pipeline=type(pipe).__name__,
        repo_id=repo_id,
        distribution=_PACKAGE.replace("_", "-"),
    )
