"""Upstream's image processor classes as steps that an artifact lists: each class is declared, an unknown one refused.

A new class is an entry of `KINDS`; one whose steps are not `precast.runtime.processors.image_steps` needs new steps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeAlias

from precast.export.image_settings import edge, is_edge, named_size
from precast.export.settings import switch, value_or
from precast.runtime.errors import UnsupportedModelError, listing
from precast.runtime.fields import Fields, is_number
from precast.runtime.generation.tiles import Tiles as Cut
from precast.runtime.processors.image_steps import (
    FILTERS,
    MOST_CHANNELS,
    MOST_COLOURS,
    MOST_EDGE,
    Align,
    Centre,
    Colours,
    Crop,
    Divide,
    Extend,
    Fit,
    Flip,
    Frames,
    Grey,
    Header,
    Mirror,
    Multiples,
    Normalise,
    Pad,
    Pairs,
    Patches,
    Resize,
    Rgb,
    Scale,
    Smooth,
    Square,
    Standardise,
    Step,
    Thumbnail,
)
from precast.runtime.processors.image_tiles import Fitted, Tiling

__all__ = ["KINDS", "ImageKind", "reads_colours", "steps_of"]

_STANDARD = (0.5, 0.5, 0.5)
_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)
_CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
_CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True, kw_only=True)
class ImageKind:
    """A class of upstream's: what it takes where the checkpoint says nothing, or null.

    Args:
        models: ``model_type`` of checkpoints that name no class and get this one.
        square: an edge given as one number is that of a square, not the shortest one.
        resized: the steps that a size stands for, of (fields, sizes, filter, file).
        again: the key that says whether numbers are divided by the standard deviations once more, as by default.
        longest: the longest edge beside a ``size`` that is one number, where checkpoints do not say it.
        pads: the default of ``do_pad``; None: pictures are never padded.
        detection: how objects are made of a detector's outputs.
        segmentation: how segments are made of the outputs of a model that gives them.
        frames: pictures are those of a video.
        made: makes all its steps of (fields, itself, file), where these are not those of other classes.
        crops: it looks for ``do_center_crop``. normalises: what ``do_normalize`` is by default; None: it is not looked
            for. flips: what ``do_flip_channel_order`` is by default; None: nothing does that.
        greys: what ``do_grayscale`` is by default; None: nothing does that. pairs: two pictures are one input.
        reads: words are read of pages, unless ``apply_ocr`` says otherwise.
    """

    models: tuple[str, ...]
    size: Mapping[str, int] = field(default_factory=dict)
    resample: int = FILTERS["bilinear"]
    mean: tuple[float, ...] = _STANDARD
    std: tuple[float, ...] = _STANDARD
    square: bool = True
    rgb: bool = False
    crop: Mapping[str, int] | None = None
    resized: Callable[[Fields, Mapping[str, int], str, str], tuple[_Resized, ...]] | None = None
    again: str | None = None
    longest: int | None = None
    pads: bool | None = None
    detection: Mapping[str, Any] | None = None
    segmentation: Mapping[str, Any] | None = None
    frames: bool = False
    made: Callable[[Fields, ImageKind, str], tuple[Step, ...]] | None = None
    crops: bool = True
    normalises: bool | None = True
    flips: bool | None = None
    greys: bool | None = None
    pairs: bool = False
    reads: bool = False


_Resized: TypeAlias = "Resize | Fit | Multiples | Crop"


def _plain(fields: Fields, sizes: Mapping[str, int], name: str, file: str) -> tuple[_Resized, ...]:
    if set(sizes) == {"height", "width"}:
        return (Resize(name, height=sizes["height"], width=sizes["width"]),)
    if set(sizes) == {"shortest_edge"}:
        return (Resize(name, shortest=sizes["shortest_edge"]),)
    raise UnsupportedModelError(
        f"{file}: size is a height and a width, or a shortest_edge, here; it has {listing(sizes)}"
    )


def _share(fields: Fields, default: float) -> float | None:
    """What share of a resized picture's edge the crop behind it keeps."""
    rule = "a number above 0, or null"
    share: float | None = fields.take("crop_pct", rule, lambda v: v is None or (is_number(v) and v > 0), default)
    return share


def _cut_below_384(fields: Fields, sizes: Mapping[str, int], name: str, file: str) -> tuple[_Resized, ...]:
    """The middle of a picture that was larger; from an edge of 384 on the whole of it, made a square."""
    if set(sizes) != {"shortest_edge"}:
        raise UnsupportedModelError(f"{file}: size is a shortest_edge here; it has {listing(sizes)}")
    edge, share = sizes["shortest_edge"], _share(fields, 224 / 256)
    if switch(fields, "do_center_crop", False):
        raise UnsupportedModelError(f"{file} asks for do_center_crop, and its pictures are cut as they are resized")
    if edge >= 384:
        return (Resize(name, height=edge, width=edge),)
    return (Resize(name, shortest=int(edge / (share or 224 / 256))), Crop(edge, edge))


def _enlarged(fields: Fields, sizes: Mapping[str, int], name: str, file: str) -> tuple[_Resized, ...]:
    """So much larger that a crop keeps 0.9 of the shortest edge, or what crop_pct says."""
    share = _share(fields, 0.9)
    if share is None:
        return _plain(fields, sizes, name, file)
    larger = {key: int(edge / share) for key, edge in sizes.items()}
    if set(sizes) == {"height", "width"} and sizes["height"] == sizes["width"]:
        larger = {"shortest_edge": larger["height"]}
    return _plain(fields, larger, name, file)


def _bounded(fields: Fields, sizes: Mapping[str, int], name: str, file: str, multiple: int = 1) -> tuple[_Resized, ...]:
    """To a shortest edge, but not beyond a longest one; or within a height and a width."""
    given = set(sizes)
    if {"shortest_edge", "longest_edge"} <= given:
        return (Fit(name, sizes["shortest_edge"], sizes["longest_edge"], multiple=multiple),)
    if {"max_height", "max_width"} <= given:
        return (Fit(name, height=sizes["max_height"], width=sizes["max_width"]),)
    if {"height", "width"} <= given:
        return (Resize(name, height=sizes["height"], width=sizes["width"]),)
    raise UnsupportedModelError(
        f"{file}: size is a shortest_edge and a longest_edge, a max_height and a max_width, or a height and a width, "
        f"here; it has {listing(sizes)}"
    )


def _bounded_up(fields: Fields, sizes: Mapping[str, int], name: str, file: str) -> tuple[_Resized, ...]:
    """The same, and sides rounded up to multiples of what size_divisor says, 0 or null for as they are."""
    rule = f"a number of pixels, 0 to {MOST_EDGE}, or null"
    by = value_or(fields, "size_divisor", rule, lambda v: type(v) is int and 0 <= v <= MOST_EDGE, 32)
    [step] = _bounded(fields, sizes, name, file)
    if by < 2:
        return (step,)
    if isinstance(step, Resize):
        return (step._replace(height=-(-step.height // by) * by, width=-(-step.width // by) * by),)
    return (step._replace(multiple=by, up=True),)  # type: ignore[call-arg]


def _rounded(fields: Fields, sizes: Mapping[str, int], name: str, file: str) -> tuple[_Resized, ...]:
    """To a shortest edge, but not beyond a longest one in the proportion of 800 to 1333; sides rounded to whole pixels,
    and down to multiples."""
    if "shortest_edge" not in sizes:
        raise UnsupportedModelError(f"{file}: size is a shortest_edge here; it has {listing(sizes)}")
    shortest = sizes["shortest_edge"]
    return (Fit(name, shortest, int(1333 / 800 * shortest), multiple=edge(fields, "size_divisor", 32), near=True),)


def _cut_to_squares(fields: Fields, kind: ImageKind, file: str) -> tuple[Step, ...]:
    """The middle of a picture, as large as all are: the mask that goes with it shows all of it, and is not read."""
    steps: list[Step] = [Rgb()] if switch(fields, "do_convert_rgb", kind.rgb) else []
    if switch(fields, "do_resize", True):
        sizes = named_size(fields, "size", kind.size, square=False)
        steps += _rounded(fields, sizes, _filter(fields, kind), file)
    if not switch(fields, "do_center_crop", True):
        raise UnsupportedModelError(f"{file} asks for no do_center_crop, and its model reads squares")
    side = named_size(fields, "crop_size", kind.crop, square=False)
    if set(side) != {"shortest_edge"}:
        raise UnsupportedModelError(f"{file}: crop_size is a shortest_edge here; it has {listing(side)}")
    steps += [Crop(*(2 * [side["shortest_edge"]])), *_rescaled(fields)]
    if switch(fields, "do_normalize", True):
        steps.append(Normalise(*_normalisation(fields, kind)))
    return tuple(steps)


def _enlarged_by_256_over_224(fields: Fields, sizes: Mapping[str, int], name: str, file: str) -> tuple[_Resized, ...]:
    return _plain(
        fields,
        {key: int((256 / 224) * edge) if key == "shortest_edge" else edge for key, edge in sizes.items()},
        name,
        file,
    )


def _rescaled(fields: Fields) -> tuple[Scale, ...]:
    """Numbers times a factor, as nearly all classes have it; the key of a few older files counts first."""
    if not switch(fields, "rescale" if "rescale" in fields else "do_rescale", True):
        return ()
    by = value_or(fields, "rescale_factor", "a number or null", is_number, 1 / 255)
    return (Scale(by, -1.0 if switch(fields, "rescale_offset", False) else 0.0),)


def _mirrored(fields: Fields, kind: ImageKind, file: str) -> tuple[Step, ...]:
    """A picture of any size, made one of whole windows."""
    steps: list[Step] = [Rgb()] if switch(fields, "do_convert_rgb", False) else []
    if switch(fields, "do_pad", True):
        # The older name counts where the other is not there.
        name = next((key for key in ("size_divisor", "pad_size") if key in fields), "size_divisor")
        rule = f"an integer from 1 to {MOST_EDGE}"
        steps.append(Mirror(value_or(fields, name, rule, lambda v: type(v) is int and 1 <= v <= MOST_EDGE, 8)))
    return (*steps, *_rescaled(fields))


def _nearest_colours(fields: Fields, kind: ImageKind, file: str) -> tuple[Step, ...]:
    """Pixels as numbers of the checkpoint's own colours."""
    if not switch(fields, "do_color_quantize", True):
        raise UnsupportedModelError(f"{file} asks for no do_color_quantize, and its model reads colours by number")
    plain = steps_of(fields, replace(kind, made=None), file)

    def colours(value: Any) -> bool:
        return isinstance(value, list) and 1 <= len(value) <= MOST_COLOURS and all(map(colour, value))

    def colour(value: Any) -> bool:
        return isinstance(value, list) and len(value) == 3 and all(map(is_number, value))

    clusters = fields.take("clusters", f"a list of 1 to {MOST_COLOURS} colours of three numbers", colours)
    return (*plain, Colours(tuple(tuple(map(float, colour)) for colour in clusters)))


def _tiled(fields: Fields, kind: ImageKind, file: str) -> tuple[Step, ...]:
    """A picture as tiles and a small one of the whole."""
    steps: list[Step] = [Rgb()] if switch(fields, "do_convert_rgb", kind.rgb) else []
    longest = None
    if switch(fields, "do_resize", True):
        sizes = named_size(fields, "size", kind.size, square=False)
        if set(sizes) != {"longest_edge"}:
            raise UnsupportedModelError(f"{file}: size is a longest_edge here; it has {listing(sizes)}")
        longest = sizes["longest_edge"]
    tile = named_size(fields, "max_image_size", {"longest_edge": 364}, square=False)
    if set(tile) != {"longest_edge"}:
        raise UnsupportedModelError(f"{file}: max_image_size is a longest_edge here; it has {listing(tile)}")
    split = switch(fields, "do_image_splitting", True)
    steps.append(Tiling(_filter(fields, kind), tile["longest_edge"], longest, split))
    steps += _rescaled(fields)
    if switch(fields, "do_normalize", True):
        steps.append(Normalise(*_normalisation(fields, kind)))
    return tuple(steps)


def _in_sizes(fields: Fields, kind: ImageKind, file: str) -> tuple[Step, ...]:
    """A picture as a whole and in tiles of the best of a few sizes."""
    steps: list[Step] = [Rgb()] if switch(fields, "do_convert_rgb", kind.rgb) else []
    sizes = named_size(fields, "size", kind.size, square=False)
    crop = named_size(fields, "crop_size", kind.crop, square=True)
    tile = crop.get("height", 0)
    if set(sizes.values()) | set(crop.values()) != {tile} or not switch(fields, "do_resize", True):
        raise UnsupportedModelError(
            f"{file}: tiles are squares of the size that the whole picture gets here; it has {dict(sizes)} and "
            f"crop_size {dict(crop)}"
        )
    usual = [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]]
    rule = f"a list of pairs of multiples of {tile}"
    cut = value_or(fields, "image_grid_pinpoints", rule, lambda value: Cut.are_sizes(value, tile), usual)
    steps.append(Fitted(_filter(fields, kind), tile, tuple((height, width) for height, width in cut)))
    steps += _rescaled(fields)
    if switch(fields, "do_normalize", True):
        steps.append(Normalise(*_normalisation(fields, kind)))
    return tuple(steps)


def _longest_padded(fields: Fields, kind: ImageKind, file: str) -> tuple[Step, ...]:
    """A picture whose longest edge is that of a square, and the square."""
    steps: list[Step] = [Rgb()] if switch(fields, "do_convert_rgb", kind.rgb) else []
    if switch(fields, "do_center_crop", False):
        raise UnsupportedModelError(f"{file} asks for do_center_crop, which is not done here")
    if switch(fields, "do_resize", True):
        sizes = named_size(fields, "size", kind.size, square=True)
        if set(sizes) != {"longest_edge"}:
            raise UnsupportedModelError(f"{file}: size is a longest_edge here; it has {listing(sizes)}")
        steps.append(Resize(_filter(fields, kind), longest=sizes["longest_edge"]))
    steps += _rescaled(fields)
    if switch(fields, "do_normalize", True):
        steps.append(Normalise(*_normalisation(fields, kind)))
    if switch(fields, "do_pad", True):
        sizes = named_size(fields, "pad_size", kind.crop, square=True)
        if set(sizes) != {"height", "width"}:
            raise UnsupportedModelError(f"{file}: pad_size is a height and a width, and it has {listing(sizes)}")
        steps.append(Extend(sizes["height"], sizes["width"]))
    return tuple(steps)


def _page(fields: Fields, kind: ImageKind, file: str) -> tuple[Step, ...]:
    """A page in the middle of a sheet, whole; turned, where that is asked for, to lie or stand as the sheet does."""
    if switch(fields, "do_center_crop", False):
        raise UnsupportedModelError(f"{file} asks for do_center_crop, which is not done here")
    sizes = named_size(fields, "size", kind.size, square=True, across=True)
    if set(sizes) != {"height", "width"}:
        raise UnsupportedModelError(f"{file}: size is a height and a width here; it has {listing(sizes)}")
    height, width = sizes["height"], sizes["width"]
    name = _filter(fields, kind)
    steps: list[Step] = [Rgb()] if switch(fields, "do_convert_rgb", kind.rgb) else []
    if switch(fields, "do_align_long_axis", False):
        steps.append(Align(height, width))
    if switch(fields, "do_resize", True):
        steps.append(Resize(name, shortest=min(height, width)))
    if switch(fields, "do_thumbnail", True):
        steps.append(Thumbnail("bicubic" if name == "nearest" else name, height, width))
    if switch(fields, "do_pad", True):
        steps.append(Centre(height, width))
    steps += _rescaled(fields)
    if switch(fields, "do_normalize", True):
        steps.append(Normalise(*_normalisation(fields, kind)))
    return tuple(steps)


def _patched(fields: Fields, kind: ImageKind, file: str) -> tuple[Step, ...]:
    """A picture as patches, as many as there are places for; below what is asked of it, where the model reads that."""
    steps: list[Step] = [Rgb()] if switch(fields, "do_convert_rgb", kind.rgb) else []
    if switch(fields, "is_vqa", False):
        steps.append(Header())
    if switch(fields, "do_normalize", True):
        steps.append(Standardise())
    sizes = named_size(fields, "patch_size", {"height": 16, "width": 16}, square=True)
    if set(sizes) != {"height", "width"}:
        raise UnsupportedModelError(f"{file}: patch_size is a height and a width, and it has {listing(sizes)}")
    return (*steps, Patches(edge(fields, "max_patches", 2048), sizes["height"], sizes["width"]))


def _squared(fields: Fields, kind: ImageKind, file: str) -> tuple[Step, ...]:
    """A picture in the corner of a square, which is blurred where it becomes smaller."""
    if switch(fields, "do_center_crop", False):
        raise UnsupportedModelError(f"{file} asks for do_center_crop, which is not done here")
    steps: list[Step] = [Rgb()] if switch(fields, "do_convert_rgb", kind.rgb) else []
    if switch(fields, "do_pad", True):
        steps.append(Square())
    scaled = _rescaled(fields)
    if switch(fields, "do_resize", True):
        sizes = named_size(fields, "size", kind.size, square=True)
        if set(sizes) != {"height", "width"}:
            raise UnsupportedModelError(f"{file}: size is a height and a width here; it has {listing(sizes)}")
        if not scaled:
            raise UnsupportedModelError(f"{file} asks for do_resize without do_rescale, which rounds here and there")
        steps.append(Smooth(sizes["height"], sizes["width"]))
    steps += scaled
    if switch(fields, "do_normalize", True):
        steps.append(Normalise(*_normalisation(fields, kind)))
    return tuple(steps)


def _divided(fields: Fields, sizes: Mapping[str, int], name: str, file: str) -> tuple[_Resized, ...]:
    """Sides rounded down to whole multiples; what size says is not looked at."""
    return (Multiples(name, edge(fields, "size_divisor", 32)),)


def _fitted(fields: Fields, sizes: Mapping[str, int], name: str, file: str) -> tuple[_Resized, ...]:
    """Near to a height and a width, in proportion or not, and multiples of a number."""
    if set(sizes) != {"height", "width"}:
        raise UnsupportedModelError(f"{file}: size is a height and a width here; it has {listing(sizes)}")
    multiple, kept = edge(fields, "ensure_multiple_of", 1), switch(fields, "keep_aspect_ratio", False)
    if multiple == 1 and not kept:
        return _plain(fields, sizes, name, file)
    return (Multiples(name, multiple, sizes["height"], sizes["width"], kept),)


_CLIP = ImageKind(
    models=("altclip", "clip", "clip_vision_model"),
    size={"shortest_edge": 224},
    resample=FILTERS["bicubic"],
    mean=_CLIP_MEAN,
    std=_CLIP_STD,
    square=False,
    rgb=True,
    crop={"height": 224, "width": 224},
)

_DETR = ImageKind(
    models=("detr", "table-transformer"),
    size={"shortest_edge": 800, "longest_edge": 1333},
    resample=FILTERS["bilinear"],
    mean=_IMAGENET_MEAN,
    std=_IMAGENET_STD,
    square=False,
    resized=_bounded,
    longest=1333,
    pads=True,
    detection={"scores": "softmax"},
)
# Of models whose classes do not exclude each other.
_BEST_100 = {"scores": "sigmoid", "most": 100}

_OWL = replace(
    _CLIP, models=("owlvit",), size={"height": 768, "width": 768}, square=True, detection={"scores": "sigmoid"}
)

KINDS: Mapping[str, ImageKind] = {
    "ViTImageProcessor": ImageKind(
        models=("clipseg", "vit", "vit_msn", "vit_mae", "ijepa", "swin", "swinv2", "mgp-str", "trocr"),
        size={"height": 224, "width": 224},
        resample=FILTERS["bilinear"],
        mean=_STANDARD,
        std=_STANDARD,
    ),
    "DeiTImageProcessor": ImageKind(
        models=("deit",),
        size={"height": 256, "width": 256},
        resample=FILTERS["bicubic"],
        mean=_STANDARD,
        std=_STANDARD,
        crop={"height": 224, "width": 224},
    ),
    "BeitImageProcessor": ImageKind(
        models=("beit",),
        size={"height": 224, "width": 224},
        resample=FILTERS["bicubic"],
        mean=_STANDARD,
        std=_STANDARD,
    ),
    "Pix2StructImageProcessor": ImageKind(models=("pix2struct",), rgb=True, made=_patched),
    "DonutImageProcessor": ImageKind(models=("donut-swin",), size={"height": 2560, "width": 1920}, made=_page),
    "CLIPImageProcessor": _CLIP,
    "LayoutLMv3ImageProcessor": ImageKind(models=("layoutlmv3",), size={"height": 224, "width": 224}, reads=True),
    "OwlViTImageProcessor": replace(_OWL, crop=None),
    "Owlv2ImageProcessor": replace(
        _OWL,
        models=("owlv2",),
        size={"height": 960, "width": 960},
        made=_squared,
        detection={"scores": "sigmoid", "square": True},
    ),
    "ConvNextImageProcessor": ImageKind(
        models=("convnext", "convnextv2", "cvt", "regnet", "resnet"),
        size={"shortest_edge": 384},
        resample=FILTERS["bicubic"],
        mean=_STANDARD,
        std=_STANDARD,
        square=False,
        resized=_cut_below_384,
    ),
    **{
        name: ImageKind(
            models=(model,),
            size={"shortest_edge": 256},
            resample=FILTERS["bilinear"],
            mean=_STANDARD,
            std=_STANDARD,
            square=False,
            crop={"height": 224, "width": 224},
        )
        for name, model in (
            ("MobileNetV1ImageProcessor", "mobilenet_v1"),
            ("MobileNetV2ImageProcessor", "mobilenet_v2"),
        )
    },
    "EfficientNetImageProcessor": ImageKind(
        models=("align", "efficientnet"),
        size={"height": 346, "width": 346},
        resample=FILTERS["bicubic"],
        mean=_STANDARD,
        std=_STANDARD,
        again="include_top",
    ),
    "SegformerImageProcessor": ImageKind(
        models=("segformer", "upernet"),
        size={"height": 512, "width": 512},
        resample=FILTERS["bilinear"],
        mean=_IMAGENET_MEAN,
        std=_IMAGENET_STD,
        crops=False,
    ),
    "GLPNImageProcessor": ImageKind(
        models=("glpn",),
        size={},
        resample=FILTERS["bilinear"],
        mean=_STANDARD,
        std=_STANDARD,
        resized=_divided,
        crops=False,
        normalises=False,
    ),
    "DPTImageProcessor": ImageKind(
        models=("dpt", "depth_anything"),
        size={"height": 384, "width": 384},
        resample=FILTERS["bicubic"],
        mean=_STANDARD,
        std=_STANDARD,
        resized=_fitted,
        crops=False,
    ),
    "MobileViTImageProcessor": ImageKind(
        models=("mobilevit", "mobilevitv2"),
        size={"shortest_edge": 224},
        resample=FILTERS["bicubic"],
        mean=_STANDARD,
        std=_STANDARD,
        square=False,
        crop={"height": 256, "width": 256},
        normalises=None,
        flips=True,
    ),
    "ChineseCLIPImageProcessor": replace(_CLIP, models=("chinese_clip",)),
    "SiglipImageProcessor": ImageKind(
        models=("siglip", "siglip_vision_model"),
        size={"height": 224, "width": 224},
        resample=FILTERS["bicubic"],
        square=False,
        rgb=True,
    ),
    "BitImageProcessor": replace(_CLIP, models=("bit", "dinov2", "focalnet")),
    "ImageGPTImageProcessor": ImageKind(
        models=("imagegpt",),
        size={"height": 256, "width": 256},
        made=_nearest_colours,
    ),
    **{
        f"{name}ImageProcessor": ImageKind(
            models=(name.lower(),),
            size={"longest_edge": 4 * 364},
            resample=FILTERS["lanczos"],
            mean=_STANDARD,
            std=_STANDARD,
            rgb=True,
            made=_tiled,
        )
        for name in ("Idefics3", "SmolVLM")
    },
    "LlavaNextImageProcessor": replace(
        _CLIP, models=("llava_next",), crop={"height": 224, "width": 224}, rgb=True, made=_in_sizes
    ),
    "SamImageProcessor": ImageKind(
        models=("sam",),
        size={"longest_edge": 1024},
        mean=_IMAGENET_MEAN,
        std=_IMAGENET_STD,
        rgb=True,
        crop={"height": 1024, "width": 1024},  # what it is padded to
        made=_longest_padded,
    ),
    "VideoMAEImageProcessor": ImageKind(
        models=("timesformer", "videomae"),
        size={"shortest_edge": 224},
        square=False,
        crop={"height": 224, "width": 224},
        frames=True,
    ),
    **{
        f"{name}ImageProcessor": ImageKind(
            models=(name.lower(),),
            size={"height": 480, "width": 640},
            square=False,
            crops=False,
            normalises=None,
            greys=pairs,
            pairs=pairs,
        )
        for name, pairs in (("SuperPoint", False), ("LightGlue", True), ("SuperGlue", True))
    },
    "BridgeTowerImageProcessor": replace(
        _CLIP,
        models=("bridgetower",),
        size={"shortest_edge": 288},
        rgb=False,
        crop={"shortest_edge": 288},
        made=_cut_to_squares,
    ),
    "ViltImageProcessor": ImageKind(
        models=("vilt",),
        size={"shortest_edge": 384},
        resample=FILTERS["bicubic"],
        square=False,
        resized=_rounded,
        crops=False,
        pads=True,
    ),
    "Swin2SRImageProcessor": ImageKind(models=("swin2sr",), made=_mirrored),
    **{
        name: ImageKind(
            models=(model,),
            size={"shortest_edge": 224},
            resample=FILTERS["bicubic"],
            mean=_IMAGENET_MEAN,
            std=_IMAGENET_STD,
            square=False,
            crop={"height": 224, "width": 224},
            resized=resized,
        )
        for name, model, resized in (
            ("LevitImageProcessor", "levit", _enlarged_by_256_over_224),
            ("PoolFormerImageProcessor", "poolformer", _enlarged),
        )
    },
    "MaskFormerImageProcessor": replace(_DETR, models=("maskformer",), resized=_bounded_up, detection=None),
    "Mask2FormerImageProcessor": replace(
        _DETR, models=("mask2former",), resized=_bounded_up, detection=None, segmentation={"side": 384}
    ),
    "YolosImageProcessor": replace(_DETR, models=("yolos",), resized=partial(_bounded, multiple=16)),
    "DetrImageProcessor": _DETR,
    "ConditionalDetrImageProcessor": replace(_DETR, models=("conditional_detr",), detection=_BEST_100),
    "GroundingDinoImageProcessor": replace(_DETR, models=("grounding-dino",), detection={"scores": "sigmoid"}),
    "DeformableDetrImageProcessor": replace(_DETR, models=("deformable_detr",), detection=_BEST_100),
    "RTDetrImageProcessor": replace(
        _DETR,
        models=("rt_detr", "rt_detr_v2"),
        size={"height": 640, "width": 640},
        normalises=False,
        longest=None,
        pads=False,
        detection={"scores": "sigmoid"},
    ),
}
# Switches that ask for what no step does.
_FLIP, _GREY = "do_flip_channel_order", "do_grayscale"
_UNDONE = ("use_square_size", _FLIP, _GREY, "do_rotate", "do_thumbnail")


def steps_of(fields: Fields, kind: ImageKind, file: str) -> tuple[Step, ...]:
    """The steps of a class by the settings of a file."""
    if kind.made is not None:
        return kind.made(fields, kind, file)
    done = {name for name, default in ((_FLIP, kind.flips), (_GREY, kind.greys)) if default is not None}
    for name in _UNDONE:
        if name not in done and switch(fields, name, False):
            raise UnsupportedModelError(f"{file} asks for {name}, which is not done here")
    padding = _padding(fields, kind, file)
    square = switch(fields, "default_to_square", kind.square)
    steps: list[Step] = []
    if switch(fields, "do_convert_rgb", kind.rgb):
        steps.append(Rgb())
    if switch(fields, "do_resize", True):
        steps += _resize(fields, kind, square, file)
    if kind.crops and switch(fields, "do_center_crop", kind.crop is not None):
        sizes = named_size(fields, "crop_size", kind.crop, square=True)
        if set(sizes) != {"height", "width"}:
            raise UnsupportedModelError(f"{file}: crop_size is a height and a width, and it has {listing(sizes)}")
        steps.append(Crop(sizes["height"], sizes["width"]))
    if kind.flips is not None and switch(fields, _FLIP, kind.flips):
        steps.append(Flip())
    steps += _rescaled(fields)
    if kind.normalises is not None and switch(fields, "do_normalize", kind.normalises):
        steps.append(Normalise(*_normalisation(fields, kind)))
    if kind.again is not None and switch(fields, kind.again, True):
        steps.append(Divide(_normalisation(fields, kind)[1]))
    if kind.greys is not None and switch(fields, _GREY, kind.greys):
        steps.append(Grey())
    if kind.frames:
        steps.append(Frames())
    if kind.pairs:
        steps.append(Pairs())
    return (*steps, *padding)


def _padding(fields: Fields, kind: ImageKind, file: str) -> tuple[Pad, ...]:
    """To a size that is stated, or to the largest of pictures that go together."""
    older = "pad_and_return_pixel_mask"  # as the key was called
    key = older if kind.pads is not None and older in fields and "do_pad" not in fields else "do_pad"
    if not switch(fields, key, bool(kind.pads)):
        return ()
    if kind.pads is None:
        raise UnsupportedModelError(f"{file} asks for do_pad, which is not done here")
    sizes = named_size(fields, "pad_size", {}, square=True)
    if sizes and set(sizes) != {"height", "width"}:
        raise UnsupportedModelError(f"{file}: pad_size is a height and a width, and it has {listing(sizes)}")
    return (Pad(**sizes),)


def _resize(fields: Fields, kind: ImageKind, square: bool, file: str) -> tuple[_Resized, ...]:
    longest = {}
    if kind.longest is not None:
        rule = f"1 to {MOST_EDGE} pixels, or null"
        longest["longest_edge"] = value_or(fields, "max_size", rule, is_edge, kind.longest)
    sizes = named_size(fields, "size", kind.size, square=square, beside=longest)
    return (kind.resized or _plain)(fields, sizes, _filter(fields, kind), file)


def _filter(fields: Fields, kind: ImageKind) -> str:
    number = value_or(
        fields, "resample", "one of Pillow's filters, 0 to 5", lambda v: type(v) is int and 0 <= v <= 5, kind.resample
    )
    return next(name for name, value in FILTERS.items() if value == number)


def _normalisation(fields: Fields, kind: ImageKind) -> tuple[tuple[float, ...], tuple[float, ...]]:
    def accept(value: Any, zero: bool) -> bool:
        values = value if isinstance(value, list) else [value]
        return 1 <= len(values) <= MOST_CHANNELS and all(is_number(one) and (zero or one != 0) for one in values)

    mean = value_or(fields, "image_mean", "a number a channel", lambda v: accept(v, True), list(kind.mean))
    std = value_or(
        fields, "image_std", "a number a channel, none of them 0", lambda v: accept(v, False), list(kind.std)
    )
    both = [value if isinstance(value, list) else [value] for value in (mean, std)]
    width = max(map(len, both))
    if any(len(values) not in (1, width) for values in both):
        fields.fail("image_std", f"as many numbers as image_mean has, {len(both[0])}", std)
    wide_mean, wide_std = (tuple(values * width if len(values) == 1 else values) for values in both)
    return wide_mean, wide_std


def reads_colours(model_type: str) -> bool:
    """Whether ids of a model are no tokens of a text, but colours of a picture."""
    return any(model_type in kind.models and kind.made is _nearest_colours for kind in KINDS.values())
