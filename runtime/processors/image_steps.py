"""Steps from a picture to pixel values, as an artifact lists them: a closed list, each step a record that is checked as
it is read. They compute what upstream's classes compute with Pillow and NumPy, to the bit.

A picture is uint8 ``[H, W, C]`` until numbers are made of it, float32 ``[C, H, W]``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np

from precast.runtime.errors import InputError
from precast.runtime.fields import Fields, is_number
from precast.runtime.processors.header import WRITTEN
from precast.runtime.processors.image_filters import FILTERS
from precast.runtime.processors.image_tiles import Fitted, Tiling
from precast.runtime.resampling import antialiased, smoothed

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = [
    "FILTERS",
    "MOST_CHANNELS",
    "MOST_COLOURS",
    "MOST_EDGE",
    "STEPS",
    "Align",
    "Centre",
    "Colours",
    "Crop",
    "Divide",
    "Extend",
    "Fit",
    "Flip",
    "Frames",
    "Grey",
    "Header",
    "Mirror",
    "Multiples",
    "Normalise",
    "Pad",
    "Pairs",
    "Patches",
    "Resize",
    "Rgb",
    "Scale",
    "Smooth",
    "Square",
    "Standardise",
    "Step",
    "Thumbnail",
    "pixels",
    "read_steps",
]

MOST_EDGE = 1 << 14  # pixels of an edge: a picture of more is no model's
MOST_CHANNELS = 16
MOST_COLOURS = 1 << 16

Array: TypeAlias = "np.ndarray[Any, Any]"


class Rgb(NamedTuple):
    """Three channels; what is transparent lies on white."""

    @classmethod
    def read(cls, fields: Fields) -> Rgb:
        return cls()

    def to_json(self) -> dict[str, Any]:
        return {"op": "rgb"}

    def __call__(self, picture: Image) -> Image:
        from PIL import Image

        if "A" in picture.getbands() or picture.info.get("transparency") is not None:
            over = picture.convert("RGBA")
            picture = Image.alpha_composite(Image.new("RGBA", over.size, (255, 255, 255, 255)), over)
        return picture.convert("RGB")


class Header(NamedTuple):
    """A text is to stand above the picture (`precast.runtime.processors.header`): without one it is refused."""

    @classmethod
    def read(cls, fields: Fields) -> Header:
        return cls()

    def to_json(self) -> dict[str, Any]:
        return {"op": "header"}

    def __call__(self, picture: Image) -> Image:
        if WRITTEN not in picture.info:
            raise InputError(
                "This model reads what is asked of a picture above it, in a TrueType font that no checkpoint holds: "
                "give the text and the font's file, header_text and font_path of an image processor, or prompt and "
                "font of a pipeline. Pix2Struct was trained with Arial."
            )
        return picture


class Resize(NamedTuple):
    """To ``height`` and ``width``, or to a ``shortest`` edge, the other in proportion, rounded down, or to a
    ``longest`` one, the other rounded."""

    filter: str
    height: int = 0
    width: int = 0
    shortest: int = 0
    longest: int = 0

    @classmethod
    def read(cls, fields: Fields) -> Resize:
        sizes = {name: _edge(fields, name) for name in ("height", "width", "shortest", "longest") if name in fields}
        if set(sizes) not in ({"height", "width"}, {"shortest"}, {"longest"}):
            fields.fail("", "given either height and width, or shortest, or longest", sorted(sizes))
        return cls(fields.choice("filter", FILTERS), **sizes)

    def to_json(self) -> dict[str, Any]:
        edges = {"height": self.height, "width": self.width, "shortest": self.shortest, "longest": self.longest}
        return {"op": "resize", **{name: edge for name, edge in edges.items() if edge}, "filter": self.filter}

    def size(self, width: int, height: int) -> tuple[int, int]:
        """Width and height of what becomes of a picture."""
        if self.longest:
            scale = self.longest / max(width, height)
            return max(1, int(width * scale + 0.5)), max(1, int(height * scale + 0.5))
        if not self.shortest:
            return self.width, self.height
        longest = int(self.shortest * max(width, height) / min(width, height))
        if longest > MOST_EDGE:
            raise InputError(
                f"A picture of {width} x {height} would become {longest} pixels long, where {MOST_EDGE} are the "
                "most. Cut it."
            )
        return (self.shortest, longest) if width <= height else (longest, self.shortest)

    def __call__(self, picture: Image) -> Image:
        return picture.resize(self.size(*picture.size), resample=FILTERS[self.filter])


class Fit(NamedTuple):
    """As large as bounds allow, in proportion: to a ``shortest`` edge, but no edge longer than ``longest``; or as large
    as fits into ``height`` and ``width``.

    ``multiple``: edges are rounded down to a multiple of so many pixels; ``up``: or up. ``near``: they are rounded to
    whole pixels before, not cut.
    """

    filter: str
    shortest: int = 0
    longest: int = 0
    height: int = 0
    width: int = 0
    multiple: int = 1
    up: bool = False
    near: bool = False

    @classmethod
    def read(cls, fields: Fields) -> Fit:
        names = ("shortest", "longest", "height", "width")
        sizes: dict[str, Any] = {name: _edge(fields, name) for name in names if name in fields}
        if set(sizes) not in ({"height", "width"}, {"shortest", "longest"}):
            fields.fail("", "given either shortest and longest, or height and width", sorted(sizes))
        multiple = _edge(fields, "multiple") if "multiple" in fields else 1
        flags = {name: fields.flag(name, False) for name in ("up", "near")}
        if flags["near"] and "shortest" not in sizes:
            fields.fail("near", "said beside shortest and longest alone", True)
        return cls(fields.choice("filter", FILTERS), **sizes, multiple=multiple, **flags)

    def to_json(self) -> dict[str, Any]:
        size = (
            {"shortest": self.shortest, "longest": self.longest}
            if self.shortest
            else {"height": self.height, "width": self.width}
        )
        steps: dict[str, Any] = {"multiple": self.multiple} if self.multiple > 1 else {}
        steps |= {name: True for name, said in (("up", self.up), ("near", self.near)) if said}
        return {"op": "fit", **size, **steps, "filter": self.filter}

    def __call__(self, picture: Image) -> Image:
        width, height = self._edges(*picture.size)
        if not (width and height):
            raise InputError(
                f"A picture of {picture.size[0]} x {picture.size[1]} would become one of {width} x {height}. Cut it."
            )
        return picture.resize((width, height), resample=FILTERS[self.filter])

    def _edges(self, width: int, height: int) -> tuple[int, int]:
        """The new width and height, each rounded where upstream rounds."""
        if self.up:
            free = self._replace(multiple=1, up=False)._edges(width, height)
            across, down = (-(-side // self.multiple) * self.multiple for side in free)
            return across, down
        if self.near:
            scale = self.shortest / min(width, height)
            sides = [float(self.shortest) if side == min(width, height) else scale * side for side in (width, height)]
            if max(sides) > self.longest:
                sides = [self.longest / max(sides) * side for side in sides]
            across, down = (int(side + 0.5) // self.multiple * self.multiple for side in sides)
            return across, down
        if not self.shortest:
            share = min(self.height / height, self.width / width)
            return int(width * share), int(height * share)
        low, high = float(min(width, height)), float(max(width, height))
        edge, exact = self.shortest, float(self.shortest)
        if high / low * edge > self.longest:
            exact = self.longest * low / high
            edge = round(exact)
        # Upright pictures that are to be rounded to a multiple are worked out though they have the size already.
        if height == edge <= width or (self.multiple == 1 and width == edge <= height):
            made = (width, height)
        elif width < height:
            made = (edge, int(exact * height / width))
        else:
            made = (int(exact * width / height), edge)
        return made[0] - made[0] % self.multiple, made[1] - made[1] % self.multiple


class Multiples(NamedTuple):
    """To sides that are multiples of a number: its own ones, rounded down; or those nearest to ``height`` and
    ``width``, where ``proportional`` has both sides scaled alike, by the one of the two factors that is nearer to 1."""

    filter: str
    multiple: int
    height: int = 0
    width: int = 0
    proportional: bool = False

    @classmethod
    def read(cls, fields: Fields) -> Multiples:
        sizes = {name: _edge(fields, name) for name in ("height", "width") if name in fields}
        if len(sizes) == 1:
            fields.fail("", "given both height and width, or neither", sorted(sizes))
        multiple, name = _edge(fields, "multiple"), fields.choice("filter", FILTERS)
        return cls(name, multiple, **sizes, proportional=fields.flag("proportional", False))

    def to_json(self) -> dict[str, Any]:
        size = {"height": self.height, "width": self.width} if self.height else {}
        kept = {"proportional": True} if self.proportional else {}
        return {"op": "multiples", "multiple": self.multiple, **size, **kept, "filter": self.filter}

    def __call__(self, picture: Image) -> Image:
        width, height = picture.size
        if self.height:
            down, across = self.height / height, self.width / width
            if self.proportional:
                down = across = across if abs(1 - across) < abs(1 - down) else down
            sides = [round(by * side / self.multiple) for by, side in ((down, height), (across, width))]
        else:
            sides = [height // self.multiple, width // self.multiple]
        rows, columns = (side * self.multiple for side in sides)
        if min(rows, columns) < 1 or max(rows, columns) > MOST_EDGE:
            raise InputError(
                f"A picture of {width} x {height} would become one of {columns} x {rows}, where sides are multiples of "
                f"{self.multiple} from that to {MOST_EDGE}. Give one that is larger, or less long."
            )
        return picture.resize((columns, rows), resample=FILTERS[self.filter])


class Align(NamedTuple):
    """A quarter turned to the right where a picture lies and ``height`` and ``width`` stand, or the other way round."""

    height: int
    width: int

    @classmethod
    def read(cls, fields: Fields) -> Align:
        return cls(_edge(fields, "height"), _edge(fields, "width"))

    def to_json(self) -> dict[str, Any]:
        return {"op": "align", "height": self.height, "width": self.width}

    def __call__(self, picture: Image) -> Image:
        from PIL import Image

        across = (picture.width - picture.height) * (self.width - self.height) < 0
        return picture.transpose(Image.Transpose.ROTATE_270) if across else picture


class Thumbnail(NamedTuple):
    """No larger than ``height`` and ``width``: the longer edge is cut down to its own, the other goes along; of a
    square both are cut."""

    filter: str
    height: int
    width: int

    @classmethod
    def read(cls, fields: Fields) -> Thumbnail:
        return cls(fields.choice("filter", FILTERS), _edge(fields, "height"), _edge(fields, "width"))

    def to_json(self) -> dict[str, Any]:
        return {"op": "thumbnail", "height": self.height, "width": self.width, "filter": self.filter}

    def __call__(self, picture: Image) -> Image:
        width, height = picture.size
        across, down = min(width, self.width), min(height, self.height)
        if (across, down) == (width, height):
            return picture
        if height > width:
            across = int(width * down / height)
        elif width > height:
            down = int(height * across / width)
        if not (across and down):
            raise InputError(f"A picture of {width} x {height} would become one of {across} x {down}. Cut it.")
        return picture.resize((across, down), resample=FILTERS[self.filter])


class Crop(NamedTuple):
    """The middle of a picture; of a smaller one, with black around it."""

    height: int
    width: int

    @classmethod
    def read(cls, fields: Fields) -> Crop:
        return cls(_edge(fields, "height"), _edge(fields, "width"))

    def to_json(self) -> dict[str, Any]:
        return {"op": "crop", "height": self.height, "width": self.width}

    def __call__(self, picture: Array) -> Array:
        cut = np.zeros((self.height, self.width, picture.shape[2]), picture.dtype)
        (top, into_top, rows), (left, into_left, columns) = (
            _middle(have, want) for have, want in zip(picture.shape[:2], (self.height, self.width), strict=True)
        )
        cut[into_top : into_top + rows, into_left : into_left + columns] = picture[
            top : top + rows, left : left + columns
        ]
        return cut


class Mirror(NamedTuple):
    """Up to the next ``multiple`` of both sides, which is another one whole where a side is one already; what is behind
    the edge is the picture mirrored there."""

    multiple: int

    @classmethod
    def read(cls, fields: Fields) -> Mirror:
        return cls(_edge(fields, "multiple"))

    def to_json(self) -> dict[str, Any]:
        return {"op": "mirror", "multiple": self.multiple}

    def __call__(self, picture: Array) -> Array:
        beyond = [(0, self.multiple - side % self.multiple) for side in picture.shape[:2]]
        return np.pad(picture, [*beyond, (0, 0)], mode="symmetric")


class Centre(NamedTuple):
    """Black around a picture, up to ``height`` and ``width``; of an odd number of rows or columns more behind it."""

    height: int
    width: int

    @classmethod
    def read(cls, fields: Fields) -> Centre:
        return cls(_edge(fields, "height"), _edge(fields, "width"))

    def to_json(self) -> dict[str, Any]:
        return {"op": "centre", "height": self.height, "width": self.width}

    def __call__(self, picture: Array) -> Array:
        height, width = picture.shape[:2]
        if height > self.height or width > self.width:
            raise InputError(
                f"A picture is padded to {self.width} x {self.height} here, and this one is larger: {width} x {height}."
            )
        beyond = [(more // 2, more - more // 2) for more in (self.height - height, self.width - width)]
        return np.pad(picture, [*beyond, (0, 0)])


class Square(NamedTuple):
    """Black behind the right edge or the bottom, up to a square."""

    @classmethod
    def read(cls, fields: Fields) -> Square:
        return cls()

    def to_json(self) -> dict[str, Any]:
        return {"op": "square"}

    def __call__(self, picture: Array) -> Array:
        side = max(picture.shape[:2])
        return np.pad(picture, [*((0, side - edge) for edge in picture.shape[:2]), (0, 0)])


class Smooth(NamedTuple):
    """To ``height`` and ``width``: an edge that becomes shorter is blurred first, by a normal distribution of
    (factor - 1) / 2 pixels, as scikit-image does; then the two nearest pixels count."""

    height: int
    width: int

    @classmethod
    def read(cls, fields: Fields) -> Smooth:
        return cls(_edge(fields, "height"), _edge(fields, "width"))

    def to_json(self) -> dict[str, Any]:
        return {"op": "smooth", "height": self.height, "width": self.width}

    def __call__(self, picture: Array) -> Array:
        """uint8 [H, W, C] -> float32 [height, width, C], 0 to 255."""
        made = smoothed(picture, self.height)
        made = smoothed(made.swapaxes(0, 1), self.width).swapaxes(0, 1)
        least, most = picture.min(), picture.max()
        return np.clip(made, least, most)


class Flip(NamedTuple):
    """Channels in the other order: RGB becomes BGR."""

    @classmethod
    def read(cls, fields: Fields) -> Flip:
        return cls()

    def to_json(self) -> dict[str, Any]:
        return {"op": "flip"}

    def __call__(self, picture: Array) -> Array:
        return picture[..., ::-1]


class Scale(NamedTuple):
    """Every number times one factor, and one number ``plus``."""

    by: float
    plus: float = 0.0

    @classmethod
    def read(cls, fields: Fields) -> Scale:
        return cls(fields.take("by", "a number", is_number), fields.take("plus", "a number", is_number, 0.0))

    def to_json(self) -> dict[str, Any]:
        return {"op": "scale", "by": self.by} | ({"plus": self.plus} if self.plus else {})

    def __call__(self, values: Array) -> Array:
        """The product in float64, and rounded once; the sum in float32."""
        scaled: Array = (values.astype(np.float64) * self.by).astype(np.float32)
        return scaled + np.float32(self.plus) if self.plus else scaled


class Normalise(NamedTuple):
    """``(x - mean) / std`` of every channel."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def read(cls, fields: Fields) -> Normalise:
        mean = _numbers(fields, "mean", "numbers", is_number)
        std = _numbers(fields, "std", "numbers that are not 0", lambda v: is_number(v) and v != 0)
        if len(mean) != len(std):
            fields.fail("std", f"{len(mean)} numbers, as many as mean has", list(std))
        return cls(mean, std)

    def to_json(self) -> dict[str, Any]:
        return {"op": "normalise", "mean": list(self.mean), "std": list(self.std)}

    def __call__(self, values: Array) -> Array:
        """Values [V, C] or [V, 1], in float32."""
        mean, std = np.array(self.mean, np.float32), np.array(self.std, np.float32)
        made: Array = (values.astype(np.float32) - mean) / std
        return made


class Divide(NamedTuple):
    """``x / by`` of every channel."""

    by: tuple[float, ...]

    @classmethod
    def read(cls, fields: Fields) -> Divide:
        return cls(_numbers(fields, "by", "numbers that are not 0", lambda v: is_number(v) and v != 0))

    def to_json(self) -> dict[str, Any]:
        return {"op": "divide", "by": list(self.by)}

    def __call__(self, values: Array) -> Array:
        """Values [V, C] or [V, 1], in float32."""
        made: Array = values.astype(np.float32) / np.array(self.by, np.float32)
        return made


class Pad(NamedTuple):
    """Zeros at the right and at the bottom: to ``height`` and ``width``, or of pictures of one call to the largest. A
    mask of the picture's own pixels goes with it."""

    height: int = 0
    width: int = 0

    @classmethod
    def read(cls, fields: Fields) -> Pad:
        sizes = {name: _edge(fields, name) for name in ("height", "width") if name in fields}
        if len(sizes) == 1:
            fields.fail("", "given both height and width, or neither", sorted(sizes))
        return cls(**sizes)

    def to_json(self) -> dict[str, Any]:
        return {"op": "pad"} | ({"height": self.height, "width": self.width} if self.height else {})

    def __call__(self, pictures: Sequence[Array]) -> tuple[list[Array], list[Array]]:
        """Pixel values [C, H, W] and their masks [H, W] of pictures [C, h, w], all of one size."""
        shapes = np.array([picture.shape[1:] for picture in pictures])
        height, width = (self.height, self.width) if self.height else map(int, shapes.max(axis=0))
        if (shapes > (height, width)).any():
            own = " x ".join(map(str, shapes.max(axis=0)[::-1]))
            raise InputError(f"Pictures are padded to {width} x {height} here; received one that becomes {own}.")
        padded, masks = [], []
        for picture in pictures:
            rows, columns = picture.shape[1:]
            mask = np.zeros((height, width), np.int64)
            mask[:rows, :columns] = 1
            whole = np.zeros((len(picture), height, width), picture.dtype)
            whole[:, :rows, :columns] = picture
            padded.append(picture if mask.all() else whole)
            masks.append(mask)
        return padded, masks


class Extend(NamedTuple):
    """Zeros behind the right edge and the bottom, up to ``height`` and ``width``."""

    height: int
    width: int

    @classmethod
    def read(cls, fields: Fields) -> Extend:
        return cls(_edge(fields, "height"), _edge(fields, "width"))

    def to_json(self) -> dict[str, Any]:
        return {"op": "extend", "height": self.height, "width": self.width}

    def __call__(self, picture: Array) -> Array:
        """Values [H, W, C] of any type."""
        height, width = picture.shape[:2]
        if height > self.height or width > self.width:
            raise InputError(
                f"A picture is padded to {self.width} x {self.height} here, and this one is larger: {width} x {height}."
            )
        return np.pad(picture, [(0, self.height - height), (0, self.width - width), (0, 0)])


class Standardise(NamedTuple):
    """Mean 0 and deviation 1 over all numbers of a picture: ``(x - mean) / max(deviation, 1 / sqrt(numbers))``."""

    @classmethod
    def read(cls, fields: Fields) -> Standardise:
        return cls()

    def to_json(self) -> dict[str, Any]:
        return {"op": "standardise"}

    def __call__(self, picture: Array) -> Array:
        """In float32."""
        values = picture.astype(np.float32)
        mean, deviation = values.mean(dtype=np.float64), values.std(dtype=np.float64)
        made: Array = (values - np.float32(mean)) / np.float32(max(deviation, values.size**-0.5))
        return made


class Patches(NamedTuple):
    """At the size of which as many whole patches of ``height`` and ``width`` as may be, ``most`` at most, cover a
    picture in proportion; and these, row by row, each behind its row and its column, which are counted from 1. What is
    left up to ``most`` are zeros. https://arxiv.org/abs/2210.03347"""

    most: int
    height: int
    width: int

    @classmethod
    def read(cls, fields: Fields) -> Patches:
        return cls(_edge(fields, "most"), _edge(fields, "height"), _edge(fields, "width"))

    def to_json(self) -> dict[str, Any]:
        return {"op": "patches", "most": self.most, "height": self.height, "width": self.width}

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of a picture's patches."""
        scale = (self.most * (self.height / height) * (self.width / width)) ** 0.5
        down, across = scale * height / self.height, scale * width / self.width
        return max(min(int(down), self.most), 1), max(min(int(across), self.most), 1)

    def __call__(self, values: Array) -> Array:
        """Numbers [H, W, C] -> float32 [most, 2 + height * width * C]."""
        rows, columns = self.grid(*values.shape[:2])
        size, channels = (columns * self.width, rows * self.height), values.shape[2]
        if max(size) > MOST_EDGE:
            raise InputError(
                f"A picture of {values.shape[1]} x {values.shape[0]} would become one of {size[0]} x {size[1]}, where "
                f"{MOST_EDGE} pixels are the most. Cut it."
            )
        resized = antialiased(values.astype(np.float32, copy=False).swapaxes(0, 1), size[0])
        resized = antialiased(resized.swapaxes(0, 1), size[1])
        grid = resized.reshape(rows, self.height, columns, self.width, channels)
        pixels = grid.transpose(0, 2, 1, 3, 4).reshape(rows * columns, -1)
        made = np.zeros((self.most, 2 + pixels.shape[1]), np.float32)
        made[: len(pixels), 0] = np.repeat(np.arange(rows), columns) + 1
        made[: len(pixels), 1] = np.tile(np.arange(columns), rows) + 1
        made[: len(pixels), 2:] = pixels
        return made


class Colours(NamedTuple):
    """The number of the nearest of some colours, pixel by pixel."""

    among: tuple[tuple[float, ...], ...]

    @classmethod
    def read(cls, fields: Fields) -> Colours:
        def listed(value: Any) -> bool:
            return isinstance(value, (list, tuple)) and 1 <= len(value) <= MOST_COLOURS and all(map(colour, value))

        def colour(value: Any) -> bool:
            return isinstance(value, (list, tuple)) and len(value) == 3 and all(map(is_number, value))

        among = fields.take("among", f"a list of 1 to {MOST_COLOURS} colours of three numbers", listed)
        return cls(tuple(tuple(colour) for colour in among))

    def to_json(self) -> dict[str, Any]:
        return {"op": "colours", "among": [list(colour) for colour in self.among]}

    def __call__(self, picture: Array) -> Array:
        """Values [H, W, 3] -> numbers [H * W], of equally near ones the first."""
        if picture.shape[2] != 3:
            raise InputError(
                f'A picture has 3 channels here; received one of {picture.shape[2]}. Convert it: image.convert("RGB").'
            )
        colours, pixels = np.array(self.among, np.float64), picture.reshape(-1, 3)
        apart = np.square(pixels).sum(axis=1)[:, None] - 2 * (pixels @ colours.T) + np.square(colours).sum(axis=1)
        nearest: Array = apart.argmin(axis=1)
        return nearest


class Frames(NamedTuple):
    """Pictures are frames of a video, which are one input together."""

    @classmethod
    def read(cls, fields: Fields) -> Frames:
        return cls()

    def to_json(self) -> dict[str, Any]:
        return {"op": "frames"}


class Pairs(NamedTuple):
    """Two pictures are one input together."""

    @classmethod
    def read(cls, fields: Fields) -> Pairs:
        return cls()

    def to_json(self) -> dict[str, Any]:
        return {"op": "pairs"}


class Grey(NamedTuple):
    """How bright each pixel is, in all three channels: numbers [H, W, C], but of a picture that is grey already."""

    @classmethod
    def read(cls, fields: Fields) -> Grey:
        return cls()

    def to_json(self) -> dict[str, Any]:
        return {"op": "grey"}

    def __call__(self, values: Array) -> Array:
        red, green, blue = (values[..., min(channel, values.shape[2] - 1)] for channel in range(3))
        if (red == green).all() and (green == blue).all():
            return values
        bright = (red * 0.2989 + green * 0.5870 + blue * 0.1140).astype(np.float32)
        return np.stack([bright] * 3, axis=-1)


Step: TypeAlias = (
    "Rgb | Header | Align | Tiling | Fitted | Resize | Fit | Multiples | Thumbnail | Crop | Mirror | Centre | Square "
    "| Smooth | Flip | Scale | Normalise | Divide | Standardise | Grey | Extend | Patches | Colours | Frames | Pairs "
    "| Pad"
)

STEPS: Mapping[str, type[Any]] = {
    "rgb": Rgb,
    "header": Header,
    "align": Align,
    "tiles": Tiling,
    "fitted": Fitted,
    "resize": Resize,
    "fit": Fit,
    "multiples": Multiples,
    "thumbnail": Thumbnail,
    "crop": Crop,
    "mirror": Mirror,
    "centre": Centre,
    "square": Square,
    "smooth": Smooth,
    "flip": Flip,
    "scale": Scale,
    "normalise": Normalise,
    "divide": Divide,
    "standardise": Standardise,
    "grey": Grey,
    "extend": Extend,
    "patches": Patches,
    "colours": Colours,
    "frames": Frames,
    "pairs": Pairs,
    "pad": Pad,
}
# A picture becomes an array once, and numbers once: steps come in this order, each once at most.
_ORDER = tuple(STEPS)


def read_steps(fields: Fields) -> tuple[Step, ...]:
    """The list ``steps`` of an artifact's image processing.

    Raises:
        what the fields' document raises: a step is unknown, out of order, or holds what it must not.
    """
    steps = tuple(fields.all("steps", _step))
    places = [_ORDER.index(step.to_json()["op"]) for step in steps]
    if any(one >= other for one, other in pairwise(places)):
        fields.fail("steps", f"in the order {', '.join(_ORDER)}, each once", [_ORDER[place] for place in places])
    return steps


def pixels(picture: Image, steps: Sequence[Step]) -> Array:
    """Pixel values [C, H, W] of a picture, not padded: float32, or uint8 where no step makes numbers of it; of
    `Colours` their numbers [H * W], and of `Patches` those.

    Raises:
        InputError: the picture has other channels than the steps are for.
    """
    numbers: list[Scale | Normalise | Divide] = []
    array: Array | None = None
    behind: list[Grey | Extend | Standardise] = []
    last: Colours | Patches | None = None
    for step in steps:
        if isinstance(step, (Scale, Normalise, Divide)):
            numbers.append(step)
        elif isinstance(step, (Crop, Mirror, Centre, Square, Smooth, Flip)):
            array = step(_array(picture) if array is None else array)
        elif isinstance(step, (Grey, Extend, Standardise)):
            behind.append(step)
        elif isinstance(step, (Colours, Patches)):
            last = step
        elif not isinstance(step, (Frames, Pairs, Pad)):
            one: Any = step  # tiles are cut before this
            picture = one(picture)
    array = _array(picture) if array is None else array
    if numbers:
        array = _looked_up(array, numbers) if array.dtype == np.uint8 else _worked_out(array, numbers)
    for step in behind:
        array = step(array)
    if last is not None:
        return last(array)
    return np.ascontiguousarray(np.moveaxis(array, -1, 0))


def _worked_out(values: Array, steps: Sequence[Scale | Normalise | Divide]) -> Array:
    """What steps make of numbers of C channels, [..., C] or [..., 1]."""
    for step in steps:
        values = step(values)
    return values


def _looked_up(picture: Array, steps: Sequence[Scale | Normalise | Divide]) -> Array:
    """What steps make of a uint8 picture: they are worked out for its 256 values, and looked up for its pixels."""
    channels = picture.shape[2]
    for step in steps:
        wide = 1 if isinstance(step, Scale) else len(step.by if isinstance(step, Divide) else step.mean)
        if wide not in (1, channels):
            raise InputError(
                f'A picture has {wide} channels here; received one of {channels}. Convert it: image.convert("RGB").'
            )
    table = np.broadcast_to(_worked_out(np.arange(256, dtype=np.uint8)[:, None], steps), (256, channels))
    made = np.empty(picture.shape, np.float32)
    for channel in range(channels):
        made[..., channel] = table[:, channel][picture[..., channel]]
    return made


def _array(picture: Image) -> Array:
    array = np.asarray(picture)
    if array.dtype != np.uint8:
        raise InputError(f'A picture has 8 bits a channel; received mode {picture.mode}. Use image.convert("RGB").')
    return array[..., None] if array.ndim == 2 else array


def _middle(have: int, want: int) -> tuple[int, int, int]:
    """Where a cut of ``want`` begins in ``have`` pixels, where in the cut these begin, and how many they are."""
    start = (have - want) // 2
    return max(0, start), max(0, -start), min(have, want)


def _step(fields: Fields) -> Step:
    step: Step = STEPS[fields.choice("op", STEPS)].read(fields)
    fields.close()
    return step


def _numbers(fields: Fields, name: str, rule: str, accept: Callable[[Any], bool]) -> tuple[float, ...]:
    def listed(value: Any) -> bool:
        return isinstance(value, (list, tuple)) and 1 <= len(value) <= MOST_CHANNELS and all(map(accept, value))

    return tuple(fields.take(name, f"a list of 1 to {MOST_CHANNELS} {rule}", listed))


def _edge(fields: Fields, name: str) -> int:
    value: int = fields.take(
        name, f"an integer from 1 to {MOST_EDGE}", lambda v: type(v) is int and 1 <= v <= MOST_EDGE
    )
    return value
