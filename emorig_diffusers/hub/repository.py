"""Where pipelines come from and how they get there: bundled names, folders, Hub ids; export and push.

A saved pipeline has one line of code for each of our classes (a *shim*: it imports the class from the installed
package), named in model_index.json as diffusers wants it. Without shims `DiffusionPipeline.from_pretrained` refuses
classes that are not its own, `trust_remote_code=True` or not; our own classes read the shims' text and run none.
"""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from diffusers import __version__
from huggingface_hub import CommitInfo, HfApi, snapshot_download
from torch import nn

from ..files.atomic import write_file
from ..files.folders import write_folder
from ..models.aligned import align_weights
from .index import INDEX, LIBRARIES, PACKAGE, refuse_code, without_shims

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

    _Pipeline = DiffusionPipeline
else:
    _Pipeline = object

WEIGHTS = Path(__file__).parents[1] / "weights"
BLOCKS, BLOCKS_INDEX = "modular_config.json", "modular_model_index.json"
"""What Modular Diffusers opens: the class of the blocks, and where their components and settings are."""
SHIM = "from {module} import {name}\n"

_LONGEST_REASON = 200  # letters of another library's error that ours repeats
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
pipe("photo.jpg", emotion="happy", intensity=1.0).save("happy.png")
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


class HubMixin(_Pipeline):
    """Opens a pipeline from a bundled name, a folder or the Hub, and saves it; goes before DiffusionPipeline.

    Attributes:
        brought: The models that its weights come from and that are licensed to each user; empty for open weights.
        blocks: Module and class of the pipeline's blocks for Modular Diffusers; empty where there are none.
    """

    brought: str
    blocks: ClassVar[str] = ""
    config: Any

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike, **kwargs: Any) -> Self:
        """As `DiffusionPipeline.from_pretrained`; a bundled name such as "emorig-open" needs no network, and a
        folder or Hub repository whose code only imports from this package needs no `trust_remote_code`.

        Weights are read from safetensors alone, unless `use_safetensors=False` says otherwise.

        Raises:
            ValueError: It brings code, or asks for classes of other packages, and `trust_remote_code` is not given;
                or its files are damaged.
            OSError: Files are missing or no JSON.
        """
        folder = fetch(pretrained_model_name_or_path, **kwargs)
        if not kwargs.get("trust_remote_code"):
            refuse_code(folder, given=kwargs)
        try:
            pipe = super().from_pretrained(folder, **{"use_safetensors": True} | kwargs)
        except (ValueError, OSError, ImportError):
            raise
        except Exception as error:  # diffusers stumbles over damaged folders in a dozen ways
            reason = f"{type(error).__name__}: {' '.join(str(error).split())[:_LONGEST_REASON]}"
            raise ValueError(f"'{folder}' is damaged, or no pipeline of this kind ({reason}).") from error
        pipe.register_to_config(_name_or_path=os.fspath(pretrained_model_name_or_path))
        return pipe

    @classmethod
    def load_config(cls, folder: str | os.PathLike, *args: Any, **kwargs: Any) -> Any:
        """As `ConfigMixin.load_config`; shims are replaced by the modules that they import from."""
        config = super().load_config(folder, *args, **kwargs)
        return without_shims(config, Path(folder)) if isinstance(config, dict) else config

    def save_config(self, save_directory: str | os.PathLike, *args: Any, **kwargs: Any) -> None:
        """As `ConfigMixin.save_config`, and the shims: so `save_pretrained` and `push_to_hub` write them too."""
        super().save_config(save_directory, *args, **kwargs)
        _add_shims(Path(save_directory), _shims(self))
        if self.blocks:
            _add_blocks(Path(save_directory), self)

    def _upload_folder(self, folder: str | os.PathLike, repo_id: str, *args: Any, **kwargs: Any) -> Any:
        """As diffusers' method, from which `push_to_hub` learns the repository's id."""
        _locate_blocks(Path(folder), repo_id)
        return super()._upload_folder(folder, repo_id, *args, **kwargs)

    def register_modules(self, **modules: Any) -> None:
        """As `DiffusionPipeline.register_modules`; weights of other packages' models are aligned as ours are."""
        for module in modules.values():
            if isinstance(module, nn.Module):
                align_weights(module)
        super().register_modules(**modules)

    @property
    def settings(self) -> dict[str, Any]:
        """What the checkpoint says besides its components: steps, crop, emotions and so on."""
        _, names = self._get_signature_keys(self)
        return {name: self.config[name] for name in names if name in self.config}

    @property
    def components(self) -> dict[str, Any]:
        """As `DiffusionPipeline.components`, and `settings`, so that `type(pipe)(**pipe.components)` is the same
        pipeline; settings that are given beside them count."""
        return super().components | {"settings": self.settings}


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


def export_hub(
    pipe: DiffusionPipeline, folder: str | os.PathLike, card: str | None = None, repo_id: str | None = None
) -> Path:
    """Write a pipeline in Hub layout: safetensors, configs, model_index.json, shims and README.md.

    Args:
        pipe: A pipeline of this package.
        folder: A new or empty folder. It appears when it is complete, never in part.
        card: Text of README.md with its front matter; `None` for a short one.
        repo_id: "owner/name" of the repository that it will be in, which the card names, and without which Modular
            Diffusers finds the components of a folder but not of a repository; `None` where it is not known yet.

    Returns:
        The folder.

    Raises:
        ValueError: If the folder holds something, or a component is of a class that no user could import.
    """
    return _export(pipe, folder, card, repo_id)


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


def _export(pipe: DiffusionPipeline, folder: str | os.PathLike, card: str | None, repo_id: str | None) -> Path:
    name = repo_id or f"<owner>/{Path(folder).absolute().name}"
    for part, kind in _classes(pipe).items():
        if kind.__module__.split(".")[0] not in (*LIBRARIES, PACKAGE):
            raise ValueError(
                f"The {part} is a {kind.__module__}.{kind.__name__}, which users of the Hub cannot import: "
                f"use a class of {', '.join(LIBRARIES)} or {PACKAGE}."
            )

    def write(part: Path) -> None:
        pipe.save_pretrained(part, safe_serialization=True)
        _locate_blocks(part, repo_id)
        (part / "README.md").write_text(card or _card(pipe, name), "utf-8")

    return write_folder(Path(folder), write)


def _classes(pipe: DiffusionPipeline) -> dict[str, type]:
    """Name -> class of the components that a pipeline has."""
    parts = {name: part for name, part in pipe.components.items() if part is not None and name != "settings"}
    return {name: type(getattr(part, "_orig_mod", part)) for name, part in parts.items()}  # torch.compile wraps


def _shims(pipe: DiffusionPipeline) -> dict[str, type]:
    """Key of model_index.json -> class that needs a shim."""
    ours = {name: kind for name, kind in _classes(pipe).items() if kind.__module__.split(".")[0] == PACKAGE}
    return {"_class_name": type(pipe), **ours}


def _add_shims(folder: Path, shims: dict[str, type]) -> None:
    """Write the shims, pipeline_emorig.py and unet/unet_emorig.py for example, and name them in the index."""
    entries = {}
    for key, kind in shims.items():
        # diffusers copies the shims of all repositories into one folder, so that their names have to differ
        last = kind.__module__.split(".")[-1]
        place, stem = (key, f"{key}_emorig") if key != "_class_name" else ("", f"pipeline_{last}")
        code = SHIM.format(module=kind.__module__, name=kind.__name__)
        (folder / place).mkdir(exist_ok=True)
        (folder / place / f"{stem}.py").write_text(code, "utf-8")
        entries[key] = [stem, kind.__name__]
    rewrite_json(folder / INDEX, entries)
    for file in folder.glob("*/*config.json"):
        rewrite_json(file, {})


def _add_blocks(folder: Path, pipe: HubMixin) -> None:
    """Write the shim and the indexes with which Modular Diffusers opens a pipeline's blocks and their components."""
    module, _, name = pipe.blocks.rpartition(".")
    (folder / "blocks_emorig.py").write_text(SHIM.format(module=module, name=name), "utf-8")
    made_by, auto_map = {"_diffusers_version": __version__}, {"ModularPipelineBlocks": f"blocks_emorig.{name}"}
    _write_json(folder / BLOCKS, {"_class_name": name, **made_by, "auto_map": auto_map})
    index: dict[str, Any] = {"_class_name": "ModularPipeline", **made_by, "_blocks_class_name": name}
    for part, kind in _classes(pipe).items():
        library = kind.__module__.split(".")[0]
        hint = [library if library in LIBRARIES else kind.__module__, kind.__name__]
        place = {"pretrained_model_name_or_path": None, "subfolder": part, "variant": None, "revision": None}
        index[part] = [*hint, {"type_hint": hint, **place}]
    _write_json(folder / BLOCKS_INDEX, index | pipe.settings)


def _locate_blocks(folder: Path, repo_id: str | None) -> None:
    """Say of which repository the components are; of a folder's, diffusers finds out."""
    file = folder / BLOCKS_INDEX
    if not file.is_file():
        return
    index = json.loads(file.read_text("utf-8"))
    for entry in index.values():
        if isinstance(entry, list) and len(entry) == 3 and isinstance(entry[2], dict):
            entry[2]["pretrained_model_name_or_path"] = repo_id
    _write_json(file, index)


def rewrite_index(folder: Path, settings: dict[str, Any]) -> None:
    """Change settings of a saved pipeline, in its index and, where there is one, in its blocks'."""
    for file in (folder / INDEX, folder / BLOCKS_INDEX):
        if file.is_file():
            rewrite_json(file, settings)


def rewrite_json(file: Path, entries: dict[str, Any]) -> None:
    """Change entries of a JSON file, and forget the folder that a component once came from."""
    content = json.loads(file.read_text("utf-8")) | entries
    content.pop("_name_or_path", None)
    _write_json(file, content)


def _write_json(file: Path, content: dict[str, Any]) -> None:
    write_file(file, (json.dumps(content, indent=2, sort_keys=True) + "\n").encode())


def _card(pipe: DiffusionPipeline, repo_id: str) -> str:
    brought = pipe.brought
    return CARD.format(
        license="other" if brought else "apache-2.0",
        terms=TERMS.format(brought=brought) if brought else "",
        title=repo_id.split("/")[-1],
        pipeline=type(pipe).__name__,
        repo_id=repo_id,
        distribution=PACKAGE.replace("_", "-"),
    )
