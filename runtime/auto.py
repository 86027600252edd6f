"""``AutoTokenizer``, ``AutoImageProcessor``, ``AutoFeatureExtractor``, ``AutoProcessor``, the ``AutoModel`` classes:
Transformers' three lines, of an artifact.

An artifact is opened. A checkpoint (a folder, a ``.gguf`` file or a Hub id) is exported once, into the cache
(cache.py), which takes the ``export`` extra; every later call finds the artifact there, and torch is not imported.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, NoReturn, TypeAlias, TypeVar

from precast.runtime import arguments
from precast.runtime.artifact import MANIFEST_NAME, Artifact
from precast.runtime.artifact.manifest import parse
from precast.runtime.cache import cache_folder, checkpoint_digests, entry_name, locked
from precast.runtime.catalogue import AUTO, CATALOGUE, TaskFacts
from precast.runtime.errors import (
    ArtifactError,
    CheckpointError,
    DependencyError,
    InputError,
    IntegrityError,
    OutputExistsError,
    UnsupportedModelError,
    UnsupportedTaskError,
    closest,
    listing,
)
from precast.runtime.hub_names import VOICES, looks_like_hub_id
from precast.runtime.strict_json import parse_value

if TYPE_CHECKING:
    from precast.runtime.model import Model
    from precast.runtime.processors.audio import FeatureExtractor
    from precast.runtime.processors.image import ImageProcessor
    from precast.runtime.processors.joint import JointProcessor
    from precast.runtime.processors.page import PageProcessor
    from precast.runtime.processors.speech import SpeechProcessor
    from precast.runtime.processors.spelling import Spelling
    from precast.runtime.processors.text import Tokenizer
    from precast.runtime.processors.voices import VoiceProcessor

    Processor: TypeAlias = (
        Tokenizer
        | ImageProcessor
        | FeatureExtractor
        | SpeechProcessor
        | JointProcessor
        | PageProcessor
        | VoiceProcessor
    )

__all__ = [
    "PROCESSORS",
    "AutoFeatureExtractor",
    "AutoImageProcessor",
    "AutoModel",
    "AutoProcessor",
    "AutoTokenizer",
    "load_exporter",
]

PathLike: TypeAlias = "str | os.PathLike[str]"
Progress: TypeAlias = Callable[[str], None]
Found = TypeVar("Found")

# What the export room imports, and the only packages whose absence means "the extra is not installed".
_EXTRA = ("torch", "onnx", "onnx_ir", "onnxscript", "onnxruntime", "safetensors")
_INSTALL = 'pip install "precast[export]"'
# Arguments of upstream's from_pretrained that mean something else here.
_ADVICE = {
    "torch_dtype": "Precision is chosen at export: precision='fp32'.",
    "dtype": "Precision is chosen at export: precision='fp32'.",
    "device_map": "A model runs on one device: device='cuda'.",
    "trust_remote_code": "Code of a checkpoint is never executed; leave it out.",
    "local_files_only": "Set HF_HUB_OFFLINE=1 to stay off the network.",
    "use_fast": "Every tokenizer is a fast one; leave it out.",
    "attn_implementation": "Kernels are chosen at export; leave it out.",
    "use_auth_token": "Write token.",
}


def load_exporter(source: PathLike = "a checkpoint") -> Callable[..., Path]:
    """``export_model``, with everything it imports; ``DependencyError`` says what is missing and how to get it."""
    missing = [name for name in _EXTRA if importlib.util.find_spec(name) is None]
    if missing:
        raise DependencyError(
            f"Exporting {os.fspath(source)!r} needs {listing(missing)}, not installed here. Install the extra: "
            f"{_INSTALL}; or export where it is (precast export SOURCE OUT), and use that artifact here."
        )
    try:
        from precast.export.exporter import export_model
    except ImportError as error:
        if (error.name or "").partition(".")[0] == "precast":
            raise
        raise DependencyError(
            f"A package that exports cannot be imported: {error}. Install it anew: {_INSTALL}."
        ) from error
    return export_model


class _AutoProcessor(Generic[Found]):
    """What reads inputs, found in an artifact or a checkpoint: one way to it for every kind."""

    _patterns: ClassVar[tuple[str, ...]]

    def __init__(self) -> None:
        raise InputError(f"{type(self).__name__} is made by {type(self).__name__}.from_pretrained(...).")

    @classmethod
    def from_pretrained(
        cls,
        source: PathLike,
        *,
        revision: str | None = None,
        token: str | None = None,
        cache_dir: PathLike | None = None,
        **unknown: Any,
    ) -> Found:
        """That of the artifact in a folder, or of a checkpoint (a folder or a Hub id), as at its export.

        Raises ``InputError`` where there is none, and what reading artifacts, checkpoints and the Hub raises.
        """
        _refuse(cls.__name__, unknown)
        _refuse_strange(source, cache_dir, revision=revision, token=token)
        folder = _local(source, revision)
        if folder is None:
            from precast.runtime import hub

            found = hub.resolve(str(source), revision=revision, token=token, patterns=cls._patterns)
            folder = found.folder
            if (folder / MANIFEST_NAME).is_file():
                pulled = _pulled(str(source), found.revision, cache_dir)
                if not (pulled / MANIFEST_NAME).is_file():
                    # Its weights are not needed, and the Hub's own digests have been compared.
                    return cls._of_listing(folder)
                folder = pulled
        if (folder / MANIFEST_NAME).is_file():
            return Artifact.use(folder, cls._of_artifact, check="size")
        # What is particular to a class of upstream's is settled as an export settles it, without torch.
        return cls._of_checkpoint(folder, os.fspath(source))

    @classmethod
    def _of_listing(cls, folder: Path) -> Found:
        """Of a folder with an artifact's manifest and the files that `_patterns` match."""
        raise NotImplementedError

    @classmethod
    def _of_artifact(cls, artifact: Artifact) -> Found:
        """Of an artifact that was opened by size: what is read is compared with its digest."""
        raise NotImplementedError

    @classmethod
    def _of_checkpoint(cls, folder: Path, source: str) -> Found:
        """Of a checkpoint's folder, or a .gguf file."""
        raise NotImplementedError


class AutoTokenizer(_AutoProcessor["Tokenizer"]):
    """The tokenizer of an artifact or a checkpoint."""

    _patterns = ("*.json", "*.txt", "*.model", "*.spm", "*.codes", "*.jinja")

    @classmethod
    def _of_listing(cls, folder: Path) -> Tokenizer:
        from precast.runtime.processors.text import Tokenizer

        return Tokenizer.from_folder(folder)

    @classmethod
    def _of_artifact(cls, artifact: Artifact) -> Tokenizer:
        from precast.runtime.processors.text import Tokenizer

        said = artifact.reading("text")
        if "files" not in said:
            reason = said.get("missing", "its model reads no texts")
            raise InputError(f"The artifact {artifact.path} has no tokenizer: {reason}.")
        return Tokenizer.from_files({name: artifact.read_bytes(name, digest=True) for name in said["files"]})

    @classmethod
    def _of_checkpoint(cls, folder: Path, source: str) -> Tokenizer:
        from precast.runtime.processors.text import Tokenizer

        if folder.is_file():
            from precast.export.checkpoints.gguf.tokenizer import read_tokenizer_files

            files = read_tokenizer_files(folder)
            if not files:
                raise InputError(f"{source!r} holds a model without a tokenizer.")
            return Tokenizer.from_files(files)
        from precast.export.tokenizers.files import runtime_files

        place = _transformer_folder(folder)
        config = _json(place / "config.json")
        files = runtime_files(place, str(config.get("model_type")), config)
        if not files:
            held = listing(sorted(entry.name for entry in place.iterdir()), 12)
            raise InputError(f"{source!r} has no tokenizer files (tokenizer.json, vocab.txt ...). It holds: {held}.")
        return Tokenizer.from_files(files)


class _AutoReader(_AutoProcessor[Found]):
    """What an artifact describes as data, and a checkpoint in one of upstream's files of settings."""

    _patterns = (MANIFEST_NAME, "config.json", "preprocessor_config.json", "processor_config.json")
    _kind: ClassVar[str]
    """Its name under ``processing``."""
    _noun: ClassVar[str]
    _reads: ClassVar[str]
    _rooms: ClassVar[tuple[str, str]]
    """The class that is made of the data, as ``module.class``, and the module that makes the data of a folder."""

    @classmethod
    def _of_listing(cls, folder: Path) -> Found:
        return cls._described(parse((folder / MANIFEST_NAME).read_bytes()).processing.get(cls._kind, {}), folder)

    @classmethod
    def _of_artifact(cls, artifact: Artifact) -> Found:
        return cls._described(artifact.reading(cls._kind), artifact.path)

    @classmethod
    def _described(cls, said: Mapping[str, Any], path: Path) -> Found:
        if "steps" not in said:
            reason = said.get("missing", f"its model reads no {cls._reads}")
            raise InputError(f"The artifact {path} has no {cls._noun}: {reason}.")
        return cls._made(said)

    @classmethod
    def _made(cls, said: Mapping[str, Any]) -> Found:
        module, _, name = cls._rooms[0].rpartition(".")
        made: Found = getattr(importlib.import_module(f"precast.runtime.processors.{module}"), name).from_data(said)
        return made

    @classmethod
    def _of_checkpoint(cls, folder: Path, source: str) -> Found:
        if folder.is_file():
            raise InputError(f"{source!r} holds a model without {arguments.article(cls._noun)}.")
        read_folder = importlib.import_module(f"precast.export.{cls._rooms[1]}").read_folder
        try:
            said = read_folder(folder, str(_json(folder / "config.json").get("model_type")))
        except UnsupportedModelError as error:
            raise InputError(f"{source!r} has no {cls._noun} that is known here: {error}.") from error
        return cls._made(said)


class AutoImageProcessor(_AutoReader["ImageProcessor"]):
    """The image processor of an artifact or a checkpoint."""

    _kind, _noun, _reads = "image", "image processor", "pictures"
    _rooms = ("image.ImageProcessor", "image_reading")


class AutoFeatureExtractor(_AutoReader["FeatureExtractor"]):
    """The feature extractor of an artifact or a checkpoint: what makes of recordings what a model hears."""

    _kind, _noun, _reads = "audio", "feature extractor", "recordings"
    _rooms = ("audio.FeatureExtractor", "audio_reading")


# By the argument of `pipeline` that takes one.
PROCESSORS: Mapping[str, type[_AutoProcessor[Any]]] = {
    "tokenizer": AutoTokenizer,
    "image_processor": AutoImageProcessor,
    "feature_extractor": AutoFeatureExtractor,
}


class _Spellings(_AutoProcessor["Spelling"]):
    """The vocabulary of a model that names a token for every frame."""

    @classmethod
    def _of_listing(cls, folder: Path) -> Spelling:
        return cls._made(parse((folder / MANIFEST_NAME).read_bytes()).processing.get("spelling", {}))

    @classmethod
    def _of_artifact(cls, artifact: Artifact) -> Spelling:
        return cls._made(artifact.reading("spelling"))

    @classmethod
    def _of_checkpoint(cls, folder: Path, source: str) -> Spelling:
        from precast.export.processor_files import folder_reader
        from precast.export.spelling import spelling

        heads = _json(folder / "config.json").get("architectures") or ()
        if not any(str(name).endswith("ForCTC") for name in heads):
            raise InputError("")
        return cls._made(spelling(folder_reader(folder)))

    @classmethod
    def _made(cls, said: Mapping[str, Any]) -> Spelling:
        from precast.runtime.processors.spelling import Spelling

        if "tokens" not in said:
            raise InputError(str(said.get("missing", "")))
        return Spelling.from_data(said)


def _spoken(tokenizer: Tokenizer, said: Mapping[str, Any], read: Callable[[str], bytes]) -> VoiceProcessor:
    """What reads texts, and the voices to say them in."""
    from precast.runtime.processors.voices import VoiceProcessor, voices

    name = said.get("voices")
    return VoiceProcessor(tokenizer, {} if name is None else voices(read(str(name)), str(name)))


# Keys of config.json by which a model has pictures among the tokens of a text.
_PLACEHOLDERS = ("image_token_id", "image_token_index")


class AutoProcessor(_AutoProcessor["Processor"]):
    """What reads the inputs of an artifact or a checkpoint: of a model of texts its tokenizer, of one of pictures its
    image processor, of one of both the two in one; of one of recordings its feature extractor, with what makes texts of
    what it says; of an artifact that speaks in stages its tokenizer with its voices."""

    _patterns = tuple(dict.fromkeys((*AutoTokenizer._patterns, *AutoImageProcessor._patterns, f"{VOICES}.npz")))

    @classmethod
    def _of_listing(cls, folder: Path) -> Processor:
        said = parse((folder / MANIFEST_NAME).read_bytes()).processing
        if "stages" in said:
            return _spoken(AutoTokenizer._of_listing(folder), said["stages"], lambda name: (folder / name).read_bytes())
        texts, source = "files" in said.get("text", {}), os.fspath(folder)
        return cls._one(source, lambda kind: kind._of_listing(folder), texts, places=lambda: said.get("join"))

    @classmethod
    def _of_artifact(cls, artifact: Artifact) -> Processor:
        source = os.fspath(artifact.path)
        if artifact.reading("stages"):
            said = artifact.reading("stages")
            reads = AutoTokenizer._of_artifact(artifact)
            return _spoken(reads, said, lambda name: artifact.read_bytes(name, digest=True))
        places = lambda: artifact.reading("join") or None  # noqa: E731
        return cls._one(source, lambda kind: kind._of_artifact(artifact), places=places)

    @classmethod
    def _of_checkpoint(cls, folder: Path, source: str) -> Processor:
        def places() -> None:
            config = _json(folder / "config.json")
            if any(config.get(key) is not None for key in _PLACEHOLDERS):
                raise InputError(
                    f"How many tokens a picture takes in a text of {source!r} is counted at its export: export it "
                    f"(precast export {source} OUT), and use AutoProcessor on that artifact."
                )

        return cls._one(source, lambda kind: kind._of_checkpoint(folder, source), places=places)

    @classmethod
    def _one(
        cls,
        source: str,
        made: Callable[[Any], Any],
        texts: bool = True,
        *,
        places: Callable[[], Mapping[str, Any] | None],
    ) -> Processor:
        """The one there is, or the two of speech, or of texts and pictures; ``texts``: there may be a tokenizer;
        ``places``: how pictures stand among the tokens of a text, where they do.

        Raises:
            InputError: there is none, or several that nothing here puts together.
        """
        found: dict[type[_AutoProcessor[Any]], Any] = {}
        reasons = []
        kinds: list[type[_AutoProcessor[Any]]] = [_Spellings, *tuple(PROCESSORS.values())[0 if texts else 1 :]]
        for kind in kinds:
            if kind is AutoTokenizer and _Spellings in found:
                continue  # its vocabulary is no tokenizer's
            try:
                found[kind] = made(kind)
            except InputError as error:
                reasons.append(str(error))
        if len(found) == 1:
            return next(iter(found.values()))  # type: ignore[no-any-return]
        if not found:
            raise InputError(" ".join(filter(None, reasons)))
        extractor = found.pop(AutoFeatureExtractor, None)
        if extractor is None and found.keys() == {AutoTokenizer, AutoImageProcessor}:
            from precast.runtime.processors.joint import JointProcessor, Places

            if hasattr(found[AutoTokenizer], "special_boxes"):
                from precast.runtime.processors.page import PageProcessor

                return PageProcessor(found[AutoImageProcessor], found[AutoTokenizer])
            said = places()
            joined = None if said is None else Places.from_data(said)
            return JointProcessor(found[AutoImageProcessor], found[AutoTokenizer], joined)
        if extractor is not None and len(found) == 1 and AutoImageProcessor not in found:
            from precast.runtime.processors.speech import SpeechProcessor

            return SpeechProcessor(extractor, next(iter(found.values())))
        names = [kind.__name__ for kind in (*found, *([AutoFeatureExtractor] if extractor is not None else []))]
        raise InputError(
            f"{source!r} reads several kinds of inputs, and nothing here reads them at once. Use "
            f"{' and '.join(names)}, and give the model what each makes."
        )


class AutoModel:
    __doc__ = AUTO["AutoModel"].gives

    task: ClassVar[str] = AUTO["AutoModel"].name

    def __init__(self) -> None:
        raise InputError(f"{type(self).__name__} is made by {type(self).__name__}.from_pretrained(...).")

    @classmethod
    def from_pretrained(
        cls,
        source: PathLike,
        *,
        device: str = "cpu",
        threads: int | None = None,
        variant: str | None = None,
        revision: str | None = None,
        token: str | None = None,
        cache_dir: PathLike | None = None,
        precision: str | None = None,
        target: str | None = None,
        progress: Progress | None = None,
        **unknown: Any,
    ) -> Model:
        """The model of an artifact, or of a checkpoint (a folder, a .gguf file or a Hub id), exported on first use.

        Args:
            device, threads, variant: how to open the artifact, as in ``precast.load``.
            revision, token: for a Hub id.
            cache_dir: in place of PRECAST_CACHE.
            precision, target: which variant; None: the artifact's most exact one, fp32 for a checkpoint, on ``device``.
            progress: called with each stage of an export as it begins.

        Raises:
            UnsupportedTaskError: the artifact or the checkpoint was not made for this class's task.
            DependencyError: a checkpoint is to be exported, and the ``export`` extra is not installed.
        """
        from precast.runtime.loading import load

        _refuse(cls.__name__, unknown)
        texts = {"device": device, "variant": variant, "precision": precision, "target": target}
        _refuse_strange(source, cache_dir, revision=revision, token=token, **texts)
        arguments.threads(threads)
        if progress is not None:
            arguments.call("progress", progress)
        target = target or device.partition(":")[0]
        folder = _local(source, revision)
        on_hub = folder is None
        if folder is None:
            folder = _from_hub(str(source), revision, token, cache_dir)
        if (folder / MANIFEST_NAME).is_file():
            if variant is None and precision is not None:
                variant = _variant(folder, target, precision)
            return cls._checked(load(folder, device=device, threads=threads, variant=variant), source)

        def export(entry: Path, overwrite: bool) -> None:
            load_exporter(source)(
                source,
                entry,
                task=cls.task,
                precision=precision or "fp32",
                target=target,
                overwrite=overwrite,
                revision=revision,
                token=token,
                progress=progress,
            )

        cache = cache_folder(cache_dir)
        if on_hub:
            from precast.runtime import hub

            found = hub.resolve(str(source), revision=revision, token=token)
            digests, name, revision = found.hashes, found.id, found.revision
        elif folder.is_file():
            from precast.export.checkpoints.gguf.reader import part_names

            digests, name = checkpoint_digests(folder.parent, cache, part_names(folder.name)), folder.stem
        else:
            digests, name = checkpoint_digests(folder, cache), Path(os.path.realpath(folder)).name
        key = entry_name(name, digests, task=cls.task, precision=precision or "fp32", target=target)
        entry = cache / "models" / key
        with locked(entry):
            if os.path.lexists(entry):
                try:
                    return cls._checked(load(entry, device=device, threads=threads, variant=variant), source)
                except IntegrityError:
                    pass  # damaged since: made anew
                export(entry, overwrite=True)
            else:
                try:
                    export(entry, overwrite=False)
                except OutputExistsError:
                    if not (entry / MANIFEST_NAME).is_file():
                        raise
                    # another process was faster, on a system without locks
            _same_source(entry, digests)
        return cls._checked(load(entry, device=device, threads=threads, variant=variant), source)

    @classmethod
    def _checked(cls, model: Model, source: PathLike) -> Model:
        facts = CATALOGUE[cls.task]
        served = (cls.task,) if facts.endings else facts.served_by
        made = any(task in model.tasks for task in served) or (
            cls is AutoModel and any("Model" in CATALOGUE[task].endings for task in model.tasks if task in CATALOGUE)
        )
        if not made:
            fitting = [kind.__name__ for kind in _CLASSES if kind.task in model.tasks]
            raise UnsupportedTaskError(
                f"{cls.__name__} needs an artifact exported for {cls.task}; {os.fspath(source)!r} serves: "
                f"{listing(model.tasks)}. Use {listing(fitting)}, or export again with --task {cls.task}."
            )
        return model


def _made(name: str, facts: TaskFacts) -> type[AutoModel]:
    kind = type(name, (AutoModel,), {"__doc__": facts.gives, "__module__": __name__, "task": facts.name})
    globals()[name] = kind
    return kind


_CLASSES: tuple[type[AutoModel], ...] = (
    AutoModel,
    *(_made(name, facts) for name, facts in AUTO.items() if name != AutoModel.__name__),
)


def _refuse(name: str, unknown: dict[str, Any]) -> None:
    for key in unknown:
        known = ("device", "threads", "variant", "revision", "token", "cache_dir", "precision", "target", "progress")
        raise InputError(
            f"{name}.from_pretrained does not know the argument {key!r}. {_ADVICE.get(key) or closest(key, known)} "
            f"It takes: {listing(known)}."
        )


def _refuse_strange(source: Any, cache_dir: Any, **texts: Any) -> None:
    """What would be stumbled over later, or never where an artifact is at hand."""
    arguments.path("source", source)
    if cache_dir is not None:
        arguments.path("cache_dir", cache_dir)
    for name, value in texts.items():
        if name == "device" or not (value is None or (name == "token" and isinstance(value, bool))):
            arguments.text(name, value, instead="" if name == "device" else ", or None")


def _local(source: PathLike, revision: str | None) -> Path | None:
    """The folder or the ``.gguf`` file ``source`` names, or None where it is a Hub id."""
    text = os.fspath(source)
    path = Path(text).expanduser()
    if path.is_dir() or (path.exists() and path.suffix.lower() == ".gguf"):
        if revision is not None:
            kind = "folder" if path.is_dir() else "file"
            raise InputError(
                f"A revision belongs to a Hub id, and {text!r} is a {kind}. Leave revision out, or give the id."
            )
        return path
    if path.exists():
        raise InputError(
            f"An artifact or a checkpoint is a folder, or a .gguf file; {text!r} is a file. Give its folder."
        )
    if isinstance(source, str) and looks_like_hub_id(source):
        return None
    _nowhere(text, path)


def _nowhere(text: str, path: Path) -> NoReturn:
    try:
        near = closest(path.name, [entry.name for entry in path.parent.iterdir() if entry.is_dir()])
    except OSError:
        near = ""
    raise InputError(f"There is no folder {text!r}, and it is no Hub id such as 'org/name'. {near}".rstrip())


def _from_hub(source: str, revision: str | None, token: str | None, cache_dir: PathLike | None) -> Path:
    """The artifact in a Hub repository, pulled into the cache; or the folder with a checkpoint's config.json."""
    from precast.runtime import hub

    patterns = (MANIFEST_NAME, "config.json", "modules.json")
    found = hub.resolve(source, revision=revision, token=token, patterns=patterns)
    if not (found.folder / MANIFEST_NAME).is_file():
        return found.folder
    entry = _pulled(source, found.revision, cache_dir)
    with locked(entry):
        if not (entry / MANIFEST_NAME).is_file():
            hub.pull(source, entry, revision=found.revision, token=token)
    return entry


def _pulled(source: str, commit: str | None, cache_dir: PathLike | None) -> Path:
    """Where the cache has an artifact of the Hub, if it has it."""
    return cache_folder(cache_dir) / "artifacts" / f"{source.replace('/', '--')}-{commit}"


def _variant(folder: Path, target: str, precision: str) -> str | None:
    """The variant of that precision by its name; None where `load` takes it anyway, and may know a faster twin."""
    artifact = Artifact.open(folder, check="size")
    component = artifact.component_for(None).name
    wanted = artifact.choose_variant(component, target=target, precision=precision)
    return None if wanted == artifact.choose_variant(component, target=target) else wanted.name


def _transformer_folder(folder: Path) -> Path:
    """Where a checkpoint's config.json is: in sentence-transformers folders it may be a module's folder."""
    try:
        modules = parse_value((folder / "modules.json").read_bytes())
        for module in modules:
            path = os.path.normpath(module["path"] or ".")
            if module["type"].rpartition(".")[2] in ("Transformer", "CLIPModel") and not (
                os.path.isabs(path) or path.startswith("..")
            ):
                return folder / path
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        pass  # no such folder, or one that an export will complain of
    return folder


def _json(path: Path) -> dict[str, Any]:
    try:
        value = parse_value(path.read_bytes())
    except FileNotFoundError:
        raise CheckpointError(
            f"{path.parent} has no config.json, so it is neither a checkpoint nor an artifact."
        ) from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: {error!s:.200}. Download it again.") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} must hold an object; it holds a {type(value).__name__}. Download it again.")
    return value


def _same_source(entry: Path, digests: dict[str, str]) -> None:
    """An entry whose checkpoint changed between hashing and exporting would sit under a wrong key."""
    recorded = Artifact.open(entry, check="size").manifest.source.files
    changed = [name for name, record in recorded.items() if digests.get(name, record.sha256) != record.sha256]
    if changed:
        shutil.rmtree(entry, ignore_errors=True)
        raise ArtifactError(f"The checkpoint changed while it was exported: {listing(changed, 5)}. Try again.")
