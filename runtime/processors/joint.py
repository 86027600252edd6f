"""Texts and pictures of one model at once: what reads each, and places of pictures among the tokens of a text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from precast.runtime.errors import InputError, listing
from precast.runtime.fields import Fields, is_count
from precast.runtime.generation.tiles import Tiles
from precast.runtime.processors.image import is_picture, open_picture
from precast.runtime.processors.image_tiles import Grid
from precast.runtime.processors.model_inputs import ModelInputs

if TYPE_CHECKING:
    from PIL.Image import Image

    from precast.runtime.processors.image import ImageProcessor
    from precast.runtime.processors.text import Tokenizer

__all__ = ["JointProcessor", "Places", "Spelled", "pictures_of"]

_MOST = 1 << 16  # tokens of a picture
_LONGEST = 256  # of what stands around them
# Keys of a part of a message that is a picture, as upstream looks for it.
_PICTURE = ("image", "url", "path", "base64")


class Spelled(NamedTuple):
    """What stands around the places of a picture that is cut into tiles.

    Args:
        each: in front of a tile's, with its ``{row}`` and ``{column}`` from 1. line: behind a row of tiles.
        whole: in front of the whole picture's; ``alone``: where there are no tiles. close: behind all.
    """

    each: str
    line: str
    whole: str
    alone: str
    close: str

    @classmethod
    def read(cls, fields: Fields) -> Spelled:
        def short(key: str) -> str:
            rule = f"a text of at most {_LONGEST} characters"
            made: str = fields.take(key, rule, lambda value: isinstance(value, str) and len(value) <= _LONGEST)
            return made

        return cls(*map(short, cls._fields))

    def text(self, places: str, grid: Grid) -> str:
        """Of a picture of so many tiles, each of which has ``places``."""
        if not grid.rows:
            return f"{self.alone}{places}{self.close}"
        lines = [
            "".join(
                self.each.replace("{row}", str(row + 1)).replace("{column}", str(column + 1)) + places
                for column in range(grid.columns)
            )
            for row in range(grid.rows)
        ]
        tiles = "".join(line + self.line for line in lines)
        return f"{tiles}{self.whole}{places}{self.close}"


class Places:
    """How the pictures of a text stand among its tokens: for each a placeholder, as often as it has features.

    Args:
        token: its id. count: features of a picture, or of a tile of it.
        spelled: what stands around them; None: nothing. tiles: of pictures that are fitted into sizes, how these are
            cut: then a picture has as many as its own size makes.
    """

    def __init__(self, token: int, count: int, spelled: Spelled | None = None, tiles: Tiles | None = None) -> None:
        self.token, self.count, self.spelled, self.tiles = token, count, spelled, tiles

    @classmethod
    def from_data(cls, said: Mapping[str, Any]) -> Places:
        """From ``processing["join"]`` of a manifest."""
        return cls.read(Fields(dict(said), "processing.join"))

    @classmethod
    def read(cls, fields: Fields) -> Places:
        """The same, of fields that name what is wrong."""
        rule = f"an integer from 1 to {_MOST}"
        count: int = fields.take("count", rule, lambda value: is_count(value, _MOST, least=1))
        said = fields.data("spelled", None) if "spelled" in fields else None
        spelled = None if said is None else Spelled.read(fields.inner("spelled", said))
        cut = fields.data("tiles", None) if "tiles" in fields else None
        tiles = None if cut is None else Tiles.read(fields.inner("tiles", cut))
        return cls(fields.count("token"), count, spelled, tiles)

    def text(self, token: str, picture: Image, grid: Grid) -> str:
        """What stands in a text for a picture, of so many tiles."""
        if self.tiles is not None:
            return token * len(self.tiles.order(picture.height, picture.width))
        places = token * self.count
        return places if self.spelled is None else self.spelled.text(places, grid)


class JointProcessor:
    """Texts and pictures to model inputs, in upstream's one call; and what a model writes to texts.

    ``places``: how pictures stand among the tokens of a text; None: they stand beside it.
    """

    def __init__(self, image_processor: ImageProcessor, tokenizer: Tokenizer, places: Places | None = None) -> None:
        self.image_processor, self.tokenizer, self.places = image_processor, tokenizer, places
        names = (*tokenizer.model_input_names, *image_processor.model_input_names)
        self.model_input_names = list(dict.fromkeys(names))

    def __repr__(self) -> str:
        return f"JointProcessor({self.image_processor!r}, {self.tokenizer!r})"

    @property
    def image_token(self) -> str:
        """What holds a picture's place in a text; empty where none does."""
        return "" if self.places is None else str(self.tokenizer.convert_ids_to_tokens(self.places.token))

    def __call__(
        self, images: Any = None, text: Any = None, return_tensors: str | None = None, **options: Any
    ) -> ModelInputs:
        """``input_ids`` and its companions [N, S] of a text or a list of them, and ``pixel_values`` of the pictures.

        Args:
            images: a picture, a list of them, or a list of those of each text; None: there are none.
            text: where pictures stand among its tokens, it says where, ``image_token`` for each. None: pictures alone.
            options: the tokenizer's.

        Raises:
            InputError: there is neither; texts have other places than there are pictures; or as the two raise it.
        """
        if images is None and text is None:
            raise InputError("A processor of texts and pictures needs one of them: processor(images=..., text=...).")
        if return_tensors not in (None, "np"):
            raise InputError(f"return_tensors can be 'np' here, there is no torch; received {return_tensors!r}.")
        pictures = [open_picture(picture) for picture in _listed(images)]
        made = ModelInputs()
        if text is not None:
            texts = [text] if isinstance(text, str) else list(text)
            written = self._with_places(texts, pictures, images)
            options.setdefault("padding", len(texts) > 1)
            made |= self.tokenizer(written, return_tensors="np", **options)
        if pictures:
            made |= self.image_processor(pictures)
        return made

    def _with_places(self, texts: Sequence[str], pictures: Sequence[Any], images: Any) -> list[str]:
        """The texts, with as many placeholders for a picture as it has features."""
        token = self.image_token
        if not token:
            return list(texts)
        found = [text.count(token) if isinstance(text, str) else 0 for text in texts]
        nested = isinstance(images, (list, tuple)) and any(isinstance(one, (list, tuple)) for one in images)
        given = [len(_listed(one)) for one in images] if nested else None
        if given is not None and given != found:
            raise InputError(
                f"each text has one {token!r} for each of its pictures; the texts have {found}, and {given} pictures "
                "came with them."
            )
        if sum(found) != len(pictures):
            raise InputError(
                f"a text has one {token!r} for each of its pictures; {_counted(sum(found), token)} in "
                f"{'it' if len(texts) == 1 else 'them'}, and {_counted(len(pictures), 'picture')} came with it. Write "
                f"{token!r} where a picture stands, or use apply_chat_template, which does."
            )
        assert self.places is not None
        texts_of = (self.places.text(token, picture, self.image_processor.grid(picture)) for picture in pictures)
        written = []
        for text in texts:
            if isinstance(text, str):
                first, *rest = text.split(token)
                text = first + "".join(next(texts_of) + part for part in rest)
            written.append(text)
        return written

    def apply_chat_template(self, conversation: Any, tokenize: bool = False, **options: Any) -> Any:
        """The prompt of a conversation whose messages may hold pictures, ``{"type": "image", "url": ...}``: as a text,
        or with ``tokenize`` as model inputs, pictures among them.

        Args:
            options: those of `Tokenizer.apply_chat_template`.

        Raises:
            InputError: a picture is no picture; or as a tokenizer does.
        """
        own = ("return_tensors", "return_dict", "padding")
        asked: dict[str, Any] = {name: options.pop(name) for name in own if name in options}
        several = isinstance(conversation, (list, tuple)) and bool(conversation)
        several = several and isinstance(conversation[0], (list, tuple))
        chats = conversation if several else [conversation]
        texts = [self.tokenizer.apply_chat_template(_marked(chat), tokenize=False, **options) for chat in chats]
        if not tokenize:
            return texts if several else texts[0]
        bos = self.tokenizer.bos_token
        if bos is not None and texts[0].startswith(bos):
            asked["add_special_tokens"] = False
        asked.pop("return_dict", None)
        pictures = [pictures_of(chat) for chat in chats]
        return self(images=pictures if any(pictures) else None, text=texts, **asked)

    def decode(self, token_ids: Any, **options: Any) -> str:
        """The text of one row of tokens, [T]."""
        text: str = self.tokenizer.decode(token_ids, **options)
        return text

    def batch_decode(self, sequences: Any, **options: Any) -> list[str]:
        """The texts of several, [N, T]."""
        return [self.decode(one, **options) for one in sequences]


def pictures_of(chat: Sequence[Any]) -> list[Any]:
    """The pictures of a conversation, in order.

    Raises:
        InputError: a part of a message says that it is a picture, and holds none.
    """
    found = []
    for part in _parts(chat):
        if part.get("type") == "image":
            held = [part[key] for key in _PICTURE if part.get(key) is not None]
            if not held:
                raise InputError(
                    f"a picture in a message is {{'type': 'image', 'url': ...}}, or with one of {listing(_PICTURE)}; "
                    f"received {dict(part)!r:.120}."
                )
            found.append(held[0])
    return found


def _parts(chat: Sequence[Any]) -> Iterable[Mapping[str, Any]]:
    for message in chat:
        content = message.get("content") if isinstance(message, Mapping) else None
        if isinstance(content, (list, tuple)):
            yield from (part for part in content if isinstance(part, Mapping))


def _marked(chat: Any) -> Any:
    """A conversation whose pictures only say that they are some: a template sees no pixels."""
    if not isinstance(chat, (list, tuple)):
        return chat
    return [
        {**message, "content": [_mark(part) for part in message["content"]]}
        if isinstance(message, Mapping) and isinstance(message.get("content"), (list, tuple))
        else message
        for message in chat
    ]


def _mark(part: Any) -> Any:
    if isinstance(part, Mapping) and part.get("type") == "image":
        return {key: value for key, value in part.items() if key not in _PICTURE}
    return part


def _listed(images: Any) -> list[Any]:
    """All pictures of a call, in order."""
    if images is None:
        return []
    if is_picture(images) or not isinstance(images, (list, tuple)):
        return [images]
    return [picture for one in images for picture in (_listed(one) if isinstance(one, (list, tuple)) else [one])]


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 or not noun.isalpha() else 's'}"
