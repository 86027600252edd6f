"""``generate`` with upstream's argument names and results: https://huggingface.co/docs/transformers/main_classes/text_generation"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from precast.runtime.backends.base import Array
from precast.runtime.errors import InputError, closest, listing
from precast.runtime.generation.call import Call, GenerativeModel, Streamer
from precast.runtime.generation.callbacks import as_callables
from precast.runtime.generation.config import INERT_KEYS, GenerationConfig, stated_by
from precast.runtime.generation.constraints import build_constraint
from precast.runtime.generation.conversation import Conversation
from precast.runtime.generation.engine import Engine
from precast.runtime.generation.loop import Control
from precast.runtime.generation.prompts import Prompts, begun_with, read_decoder_prompts, read_prompts
from precast.runtime.generation.results import FinishReason, GenerateOutput
from precast.runtime.generation.sources import PERCEIVED, Conditions, Encoded
from precast.runtime.generation.speech import ASKED, Speech
from precast.runtime.generation.stopping import StopStrings

__all__ = ["generate", "prepare"]

_FIELDS = frozenset(each.name for each in dataclasses.fields(GenerationConfig))


def generate(
    model: GenerativeModel, inputs: Any = None, generation_config: Any = None, **arguments: Any
) -> Array | GenerateOutput:
    """Token ids after (or, of an encoder-decoder, for) the prompts.

    Args:
        inputs: the model's main input, for short: ``input_ids``, or what it hears.
        generation_config: what the call asks for; arguments of the call go before it.
        arguments: those of `prepare`, and any of `GenerationConfig`.

    Returns:
        [N * num_return_sequences, L] int64: a decoder's begin with the prompt as it was given; rows that ended early
        are filled up with pad_token_id. With ``return_dict_in_generate=True``, a `GenerateOutput`.

    Raises:
        InputError: an argument is unknown, impossible or contradicts another; a prompt is empty, too long, or holds
            ids outside the vocabulary.
    """
    call = prepare(model, inputs, generation_config, **arguments)
    output = call.execute()
    return output if call.config.return_dict_in_generate else output.sequences


def prepare(
    model: GenerativeModel,
    inputs: Any = None,
    generation_config: Any = None,
    logits_processor: Any = None,
    stopping_criteria: Any = None,
    prefix_allowed_tokens_fn: Callable[[int, Array], Sequence[int]] | None = None,
    assistant_model: Any = None,
    streamer: Streamer | None = None,
    *,
    input_ids: Any = None,
    input_features: Any = None,
    input_values: Any = None,
    pixel_values: Any = None,
    flattened_patches: Any = None,
    attention_mask: Any = None,
    encoder_outputs: Encoded | None = None,
    decoder_input_ids: Any = None,
    decoder_attention_mask: Any = None,
    token_type_ids: Any = None,
    past: Conversation | None = None,
    tokenizer: Any = None,
    json_schema: Any = None,
    regex: str | None = None,
    grammar: str | None = None,
    **arguments: Any,
) -> Call:
    """The checked call; nothing has been computed yet.

    Args:
        inputs: the model's main input, for short: ``input_ids``, or what it hears.
        generation_config: what the call asks for, a `GenerationConfig`, a mapping, or upstream's object (anything with
            ``to_dict``); what it leaves out is the checkpoint's.
        logits_processor: functions ``(input_ids [R, L], scores [R, V]) -> scores`` of NumPy arrays.
        stopping_criteria: functions ``(input_ids [R, L], scores) -> bool, or [R] of them``.
        prefix_allowed_tokens_fn: ``(index of the prompt, tokens [L]) -> the tokens allowed next``.
        assistant_model: a smaller model (or its engine) that drafts tokens for this one.
        streamer: told prompts and tokens as they come, as upstream's ``TextStreamer``.
        input_ids: [N, S] integers with padding on either side, or N lists of ids; an encoder-decoder's source.
        input_features, input_values: what the model hears: features of recordings, or their samples.
        pixel_values, flattened_patches: what it sees: N pictures of an encoder-decoder; of a decoder all that its
            prompts have among their tokens, in their order. What else belongs to them is named as the model's inputs.
        attention_mask: [N, S], 1 for a token (a frame, a sample) and 0 for padding.
        encoder_outputs: in place of the encoder's inputs, what it made of them (`LanguageModel.encoder_outputs`).
        decoder_input_ids: what an encoder-decoder's outputs begin with, the start token being added where it lacks;
            None: that token, and where speech is written down what ``language``, ``task`` and ``return_timestamps``
            ask for, the language being found out where nothing says it.
        token_type_ids: what some tokenizers add, and no model here looks at.
        past: what this conversation's calls have processed before need not be processed again.
        tokenizer: in place of the model's, for stop strings and grammars.
        json_schema, regex, grammar: what the generated text has to match, one of them.
        arguments: any of `GenerationConfig`; ``seed`` is an int (prompt i has seed + i) or one a prompt.
    """
    control = Control()
    engine = model.engine()
    perceived = dict(zip(PERCEIVED, (input_features, input_values, pixel_values, flattened_patches), strict=True))
    taken = engine.source.names if engine.source is not None else engine.among.names if engine.among is not None else ()
    perceived |= {name: arguments.pop(name) for name in taken if name in arguments}
    _refuse_unknown(arguments)
    _refuse_strange_objects(prefix_allowed_tokens_fn, streamer, past)
    if isinstance(inputs, Mapping):
        raise InputError("What a tokenizer gives is passed as keywords: generate(**inputs), not generate(inputs).")
    config = _merged(model, generation_config, arguments)
    if engine.prompt_start is not None and input_ids is not None and decoder_input_ids is None:
        texts = read_prompts(input_ids, attention_mask, vocab_size=engine.vocab_size, pad=config.pad_token_id)
        decoder_input_ids, input_ids, attention_mask = begun_with(engine.prompt_start, texts), None, None
    given = _given(engine, inputs, input_ids, perceived)
    unknown: list[int] = []
    if engine.source is not None:
        read = (
            engine.source.read(given, attention_mask, config)
            if encoder_outputs is None
            else _read_before(engine, encoder_outputs, given)
        )
        config = _without_text(config) if read.ids is None else config
        if decoder_input_ids is None and config.speech.said and not engine.source.is_text:
            decoder_input_ids, unknown = _begun(config, read.rows)
        prompts = read_decoder_prompts(
            read.rows, decoder_input_ids, decoder_attention_mask, config.decoder_start_token_id,
            config.bos_token_id, vocab_size=engine.vocab_size,
        )  # fmt: skip
    elif encoder_outputs is not None:
        raise InputError("encoder_outputs are an encoder-decoder's; this model has a decoder only. Pass input_ids.")
    elif decoder_input_ids is not None or decoder_attention_mask is not None:
        raise InputError("decoder_input_ids are an encoder-decoder's; this model has a decoder only. Pass input_ids.")
    else:
        prompts = read_prompts(
            given.get("input_ids"), attention_mask, vocab_size=engine.vocab_size, bos=config.bos_token_id,
            pad=config.pad_token_id, eos=config.eos,
        )  # fmt: skip
        read = None
        beside = {name: value for name, value in given.items() if name != "input_ids"}
        if engine.among is not None and (context := engine.among.read(prompts.rows, beside)) is not None:
            read = Conditions(context, len(prompts.rows), None)
    budget, reason = _budget(config, prompts, engine.max_length)
    control.max_time = config.max_time
    seeds = _seeds(config.seed, len(prompts.rows))
    rows = len(prompts.rows) * max(config.num_beams or 1, config.num_return_sequences or 1)
    beams = config.num_beams or 1
    if streamer is not None and beams > 1:
        raise InputError("A beam search takes tokens back, so it cannot be streamed; leave out streamer or num_beams.")
    if past is not None and rows > 1:
        raise InputError(
            f"A conversation is one row, decoded without beams; received {len(prompts.rows)} prompts, "
            f"num_beams={beams}, num_return_sequences={config.num_return_sequences}."
        )
    assistant = _engine(assistant_model)
    if assistant is not None and beams > 1:
        raise InputError(f"A draft model speculates for one sequence, and num_beams is {beams}; leave one of them out.")
    tokenizer = model.tokenizer if tokenizer is None else tokenizer
    return Call(
        engine=engine,
        config=config,
        prompts=prompts,
        context=None if read is None else read.context,
        sources=None if read is None else read.ids,
        seeds=seeds,
        budget=budget,
        length_reason=reason,
        logits_callbacks=as_callables(logits_processor, "logits_processor"),
        criteria_callbacks=as_callables(stopping_criteria, "stopping_criteria"),
        criteria=[StopStrings(config.stop_strings, tokenizer)] if config.stop_strings else [],
        prefix_allowed_tokens_fn=prefix_allowed_tokens_fn,
        constraint=build_constraint(
            tokenizer, engine.vocab_size, config.eos, json_schema=json_schema, regex=regex, grammar=grammar
        ),
        streamer=streamer,
        assistant=assistant,
        conversation=past,
        unknown=unknown,
        control=control,
    )


def _refuse_unknown(arguments: Mapping[str, Any]) -> None:
    """GenerationConfig refuses what it does not know; a near miss of an argument of ours it cannot see."""
    strange = [name for name in arguments if name not in _FIELDS and name not in INERT_KEYS | ASKED]
    if not strange:
        return
    own = set(inspect.signature(prepare).parameters) - {"model", "arguments"}
    for name in strange:
        near = closest(name, own | _FIELDS)
        if any(near.startswith(f"Closest: {each}") for each in own):
            raise InputError(f"generate() has no argument {name!r}. {near}")


def _given(engine: Engine, inputs: Any, input_ids: Any, perceived: Mapping[str, Any]) -> dict[str, Any]:
    """The main input by its name, which ``inputs`` stands for, and what is perceived."""
    source, among = engine.source, engine.among
    main = "input_ids" if source is None else source.main
    given = {name: value for name, value in {"input_ids": input_ids, **perceived}.items() if value is not None}
    if inputs is not None and main in given:
        raise InputError(f"inputs and {main} are two names of one argument; pass one of them.")
    taken = source.names if source is not None else ("input_ids", *(among.names if among is not None else ()))
    strange = [name for name in given if name not in taken]
    if strange and source is not None:
        raise source.refuse(strange)
    if strange and among is not None:
        raise InputError(f"this model takes {listing(taken)}; received {strange[0]}.")
    if strange:
        raise InputError(
            f"this model continues texts and neither hears nor sees; received {strange[0]}. Pass input_ids."
        )
    return given if inputs is None else {**given, main: inputs}


def _read_before(engine: Engine, encoder_outputs: Any, given: Mapping[str, Any]) -> Conditions:
    """What an encoder made in another call."""
    if given:
        raise InputError(f"encoder_outputs stands in place of {', '.join(given)}; pass one of them.")
    made = Encoded.of(engine, encoder_outputs)
    return Conditions(made, made.rows, None)


def _begun(config: GenerationConfig, rows: int) -> tuple[list[list[int]], list[int]]:
    """What answers begin with, and which of them lack their language: there the first one stands."""
    begun = config.speech.begin(config.first_token, rows)
    any_language = min(config.speech.lang_to_id.values(), default=0)
    filled = [[any_language if token is None else token for token in row] for row in begun]
    return filled, [index for index, row in enumerate(begun) if None in row]


def _without_text(config: GenerationConfig) -> GenerationConfig:
    """Without what looks at the tokens of a text that is read, where none is known."""
    for name in ("encoder_repetition_penalty", "encoder_no_repeat_ngram_size"):
        if name in config.explicit and getattr(config, name) not in (None, 0, 1.0):
            raise InputError(f"{name} looks at a text that is read, and none is known here; leave it out.")
    return dataclasses.replace(config, encoder_repetition_penalty=None, encoder_no_repeat_ngram_size=None)


def _refuse_strange_objects(prefix_allowed_tokens_fn: Any, streamer: Any, past: Any) -> None:
    """What only a loop would stumble over."""
    if prefix_allowed_tokens_fn is not None and not callable(prefix_allowed_tokens_fn):
        raise InputError(
            "prefix_allowed_tokens_fn is a function (index of the prompt, tokens) -> tokens; received "
            f"{type(prefix_allowed_tokens_fn).__name__}."
        )
    if streamer is not None and not all(callable(getattr(streamer, name, None)) for name in ("put", "end")):
        raise InputError(
            f"streamer has the methods put and end, as a TextStreamer; received {type(streamer).__name__}."
        )
    if past is not None and not isinstance(past, Conversation):
        raise InputError(
            f"past is a Conversation (precast.runtime.generation.conversation); received {type(past).__name__}."
        )


def _merged(model: GenerativeModel, given: Any, arguments: Mapping[str, Any]) -> GenerationConfig:
    config = model.config if isinstance(model.config, Mapping) else vars(model.config)
    base = GenerationConfig.from_checkpoint(model.generation_config, config)
    if isinstance(given, GenerationConfig):
        # A configuration is complete but for the tokens of the vocabulary it is used with.
        tokens = ("pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id")
        lacking: dict[str, Any] = {name: getattr(base, name) for name in tokens if getattr(given, name) is None}
        if given.speech == Speech():
            lacking["speech"] = base.speech
        base = dataclasses.replace(given, **lacking)
        return base.merged(arguments)
    if given is not None and not isinstance(given, Mapping):
        return dataclasses.replace(base, **stated_by(given)).merged(arguments)
    return base.merged({**(given or {}), **arguments})


def _engine(model: Any) -> Engine | None:
    if model is None:
        return None
    if hasattr(model, "engine"):
        made: Engine = model.engine()
        return made
    if not hasattr(model, "open") or not hasattr(model, "vocab_size"):
        raise InputError(f"assistant_model is a model or its engine; received {type(model).__name__}.")
    opened: Engine = model
    return opened


def _budget(config: GenerationConfig, prompts: Prompts, limit: int | None) -> tuple[int, FinishReason]:
    """New tokens a row may get, and what it means to have got them all."""
    width, longest = prompts.width, max(len(row) for row in prompts.rows)
    if limit is not None and longest >= limit:
        raise InputError(
            f"The model holds {limit} tokens, prompt and answer together; a prompt has {longest} already. Shorten it."
        )
    total = config.total_length(width, limit)
    budget = total - width
    if budget < 1:
        raise InputError(
            f"The prompt is {width} tokens long (padding included) and max_length is {total}, so nothing could be "
            "generated. Raise max_length, or give max_new_tokens, which does not count the prompt."
        )
    if limit is not None and longest + budget > limit:
        return limit - longest, "model_length"
    return budget, "length"


def _seeds(seed: int | Sequence[int] | None, count: int) -> list[int | None]:
    if seed is None:
        return [None] * count
    if isinstance(seed, int):
        return [seed + index for index in range(count)]
    if len(seed) != count:
        raise InputError(f"seed is one number, or one a prompt ({count}); received {len(seed)}.")
    return list(seed)
