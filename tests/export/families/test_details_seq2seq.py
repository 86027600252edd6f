"""What the discovered tests of encoder-decoders cannot see: configs to be refused, distances beyond the tables, padding
on either side, checkpoints that leave parts out, and artifacts from end to end."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from support.oracle import TensorSource, apart, float64, save_checkpoint, sources, upstream, widened
from support.prompts import ended, prompts
from support.trained_models import END, LONGEST, PADDING, SEPARATOR, copier, digits, reverser
from transformers.models.t5.modeling_t5 import T5Attention

import precast
from precast.export.blocks.cache import Step
from precast.export.blocks.relative import SteppedRelativeBias, one_sided_buckets, two_sided_buckets
from precast.export.blocks.tables import fill_tables
from precast.export.families import find_family
from precast.export.heads import BASE, SEQ2SEQ_LM, FeatureExtraction
from precast.export.reference import Reference, build
from precast.export.skeletons import relative
from precast.export.spec import hf
from precast.export.weights import Ignore, Rename, Tie, Within
from precast.runtime.backends.base import Array
from precast.runtime.errors import ConfigError, InputError, IntegrityError, WeightsError


def full(model_type: str, **keys: Any) -> dict[str, Any]:
    return {"model_type": model_type, **find_family(model_type).tiny, **keys}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            full("t5", feed_forward_proj="gated-gelu-new"),
            r"'feed_forward_proj' is an activation, or 'gated-'.*gated-ge",
        ),
        (full("t5", feed_forward_proj="relo"), r"'feed_forward_proj' is 'relo': unknown activation\. Closest: relu"),
        (full("t5", relative_attention_num_buckets=30), r"multiple of 4.*received 30 and 128"),
        (full("t5", relative_attention_max_distance=16), r"half of it below.*received 32 and 16"),
        (full("t5", is_encoder_decoder=False), r"'is_encoder_decoder' is False, and only True"),
        (full("t5", hidden_act="relu"), r"'hidden_act' = 'relu' is not honoured here"),
        (full("mt5", is_decoder=True), r"'is_decoder' is True, and only False"),
        (full("bart", encoder_attention_heads=5), r"'d_model' 32 must be a multiple of 'encoder_attention_heads' 5"),
        (full("mbart", decoder_attention_heads=3), r"'d_model' 32 must be a multiple of 'decoder_attention_heads' 3"),
        (full("pegasus", activation_function="relo"), r"'activation_function' is 'relo': unknown activation"),
        (full("marian", decoder_vocab_size=50), r"share their embeddings, and 'decoder_vocab_size' 50 is not 'vocab_s"),
        (full("m2m_100", pad_token_id=None), r"'pad_token_id' is None: positions are counted from the padding token"),
        (full("m2m_100", pad_token_id=7), r"'pad_token_id' is 7: positions are counted .* whose id is 0 or 1"),
        (full("blenderbot", rotary_pct=0.5), r"'rotary_pct' = 0.5 is not honoured here"),
    ],
)
def test_configs_that_mean_another_model_are_refused(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        find_family(config["model_type"]).read(config)


@pytest.mark.parametrize(("count", "furthest"), [(32, 128), (12, 20), (64, 1000)])
def test_relative_buckets_are_upstreams_at_every_distance(count: int, furthest: int) -> None:
    distance = torch.arange(-5000, 5001)
    bucket = T5Attention._relative_position_bucket
    expected = bucket(-distance, bidirectional=True, num_buckets=count, max_distance=furthest)
    assert torch.equal(two_sided_buckets(distance, count, furthest), expected)
    ahead = distance[distance >= 0]
    expected = bucket(-ahead, bidirectional=False, num_buckets=count, max_distance=furthest)
    assert torch.equal(one_sided_buckets(ahead, count, furthest), expected)
    assert int(expected.max()) == count - 1, "the furthest bucket is reached"


def test_a_bias_by_slot_is_the_bias_by_distance() -> None:
    """Rows of different length, far behind the last bucket's border."""
    bias = SteppedRelativeBias(128, lambda distance: one_sided_buckets(distance, 32, 128), 32, 3)
    fill_tables(bias)
    past = torch.tensor([0, 700])
    step = Step(past, torch.tensor([2, 2]), None, past={"past_key.0": torch.zeros(2, 3, 900, 4)})
    with torch.no_grad():
        made = bias(torch.zeros(2, 2, dtype=torch.int64), step)
        for row, begin in enumerate(past.tolist()):
            for new in range(2):
                distance = (begin + new - torch.arange(900)).clamp(min=0)
                expected = bias.table.weight[one_sided_buckets(distance, 32, 128)]
                assert torch.equal(made[row, :, new], expected.t())


def loaded(model_type: str, config: Mapping[str, Any], tensors: dict[str, torch.Tensor], folder: Path) -> Any:
    """Upstream's model of a checkpoint with these tensors."""
    from safetensors.torch import save_file

    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(dict(config)))
    save_file({name: value.clone() for name, value in tensors.items()}, folder / "model.safetensors", {"format": "pt"})
    found = transformers.AutoModelForSeq2SeqLM.from_pretrained(folder, attn_implementation="eager")
    return found.eval()


def logits(reference: Reference, source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Of a whole target, without upstream."""
    encoder, decoder = (part.module for part in reference.parts)
    length = target.shape[1]
    with torch.no_grad():
        made = encoder(source, torch.ones_like(source))
        states = {name: value for name, value in made.items() if name.startswith("cross_")}
        for name, state in reference.parts[1].signature.states.items():
            states[name] = torch.zeros([{"batch": 1, "capacity": length}.get(dim, dim) for dim in state.shape])  # type: ignore[misc, call-overload]
        places = torch.arange(length)[None]
        extra = {"position_ids": places} if reference.parts[1].signature.port("position_ids") else {}
        found: torch.Tensor = decoder(
            input_ids=target,
            past_lengths=torch.zeros(1, dtype=torch.int64),
            lengths=torch.tensor([length]),
            logit_positions=places,
            states=states,
            encoder_attention_mask=torch.ones_like(source),
            **extra,
        )["logits"]
    return found


def agree(model_type: str, config: dict[str, Any], tensors: dict[str, torch.Tensor], folder: Path) -> Reference:
    """Our model of a checkpoint computes what upstream's does; which is looked at in float64."""
    theirs = widened(loaded(model_type, config, tensors, folder))
    wide = {name: _Tensor(value.double()) for name, value in tensors.items()}
    source, target = torch.arange(3, 20)[None], torch.arange(5, 15)[None]
    with float64():
        expected = theirs(input_ids=source, decoder_input_ids=target).logits
    assert apart(logits(build(config, wide, dtype=torch.float64), source, target), expected) <= 1
    return build(config, {name: _Tensor(value) for name, value in tensors.items()})


class _Tensor:
    def __init__(self, value: torch.Tensor) -> None:
        self.value = value
        self.shape = tuple(value.shape)

    def load(self) -> torch.Tensor:
        return self.value


def state(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: source.load() for name, source in sources(model).items()}


def test_t5_with_a_head_of_its_own_keeps_it(tmp_path: Path) -> None:
    """As v1.1's checkpoints: embeddings under one name, another matrix for the logits, which are not scaled."""
    config, model = upstream("t5", SEQ2SEQ_LM, {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False})
    tensors = {name: value for name, value in state(model).items() if "embed_tokens" not in name}
    tensors["lm_head.weight"] = tensors["lm_head.weight"].flip(0)
    config = {
        **{key: value for key, value in config.items() if key != "scale_decoder_outputs"},
        "tie_word_embeddings": False,
    }
    reference = agree("t5", config, tensors, tmp_path / "own")
    assert reference.model.lm_head.weight is not reference.model.decoder.embeddings.words.weight  # type: ignore[union-attr]


@pytest.mark.parametrize("kept", ["shared.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight"])
def test_t5_takes_its_embeddings_under_any_name(kept: str) -> None:
    config, model = upstream("t5", SEQ2SEQ_LM)
    every = {"shared.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight"}
    stored = {name: source for name, source in sources(model).items() if name not in every - {kept}}
    # Of a decoder that never was: saved by the first versions.
    stored["decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"] = next(iter(stored.values()))
    found: Any = build(config, stored).model
    words = found.encoder.embeddings.words.weight
    assert words is found.decoder.embeddings.words.weight and words is found.lm_head.weight
    with pytest.raises(WeightsError, match=r"Missing.*embeddings\.words\.weight|must match one to one"):
        build(config, {name: source for name, source in stored.items() if name != kept})


def test_an_encoder_stands_alone() -> None:
    """T5's, as upstream's T5EncoderModel has it, in a family that a caller makes: the same parts, and the same rules of
    names behind another prefix."""

    @dataclass(frozen=True, kw_only=True)
    class Spec(relative.RelativeSpec):
        is_encoder_decoder: bool = hf(default=True, only=(True, False))

    alone = replace(
        find_family("t5"),
        spec=Spec,
        heads={BASE: lambda spec, absent: FeatureExtraction(relative.encoder(spec, absent))},
        weights=lambda spec: (
            Within("encoder.", relative.stack_names("SelfAttention", "DenseReluDense"), to="model."),
            Rename("model.layers.0.bias.*", "model.bias.*"),
            Tie("model.embeddings.words.weight", "shared.weight"),
            Ignore("shared.weight"),
        ),
    )
    config, both = upstream("t5", SEQ2SEQ_LM, {"feed_forward_proj": "gated-gelu", "num_layers": 3})
    theirs: Any = widened(transformers.T5EncoderModel(both.config).eval())
    config = {**config, "is_encoder_decoder": False, "architectures": ["T5EncoderModel"]}
    ours = build(config, sources(theirs), "feature-extraction", torch.float64, alone)
    ids, mask = torch.arange(3, 23).view(2, 10), torch.tensor([[1] * 10, [1] * 6 + [0] * 4])
    with float64():
        expected = theirs(input_ids=ids, attention_mask=mask).last_hidden_state
        got = ours.model(ids, mask)["last_hidden_state"]
    assert apart(got[mask != 0], expected[mask != 0]) <= 1


def test_t5_computes_what_the_derived_keys_say(tmp_path: Path) -> None:
    config, model = upstream("t5", SEQ2SEQ_LM, {"feed_forward_proj": "gated-gelu"})
    changed = {**config, "dense_act_fn": "silu", "is_gated_act": True}
    spec: Any = find_family("t5").read(changed)
    assert spec.gated and spec.act is torch.nn.functional.silu
    agree("t5", changed, state(model), tmp_path / "derived")


@pytest.mark.parametrize("model_type", ["marian", "pegasus"])
def test_sinusoids_are_computed_where_no_table_is_stored(model_type: str, tmp_path: Path) -> None:
    config, model = upstream(model_type, SEQ2SEQ_LM, {"d_model": 28, "max_position_embeddings": 600})
    tensors = {name: value for name, value in state(model).items() if "embed_positions" not in name}
    reference = agree(model_type, config, tensors, tmp_path / "computed")
    ours = reference.model.encoder.embeddings.positions.table(torch.arange(600))  # type: ignore[union-attr, operator]
    theirs = loaded(model_type, config, tensors, tmp_path / "again").model.encoder.embed_positions.weight
    torch.testing.assert_close(ours, theirs.detach(), atol=1e-7, rtol=0)


def test_a_bias_of_zeros_is_left_out() -> None:
    config, model = upstream("bart", SEQ2SEQ_LM)
    stored = sources(model)
    assert build(config, stored).model.lm_head.bias is not None  # type: ignore[union-attr]
    model.final_logits_bias.zero_()  # type: ignore[operator, union-attr]
    assert build(config, sources(model)).model.lm_head.bias is None  # type: ignore[union-attr]
    absent = {name: source for name, source in stored.items() if name != "final_logits_bias"}
    assert build(config, absent).model.lm_head.bias is None  # type: ignore[union-attr]


@pytest.mark.parametrize("shape", [(0, 99), (99,), (2, 99), (1, 98)])
def test_a_bias_of_another_shape_is_refused_even_if_it_is_all_zeros(shape: tuple[int, ...], tmp_path: Path) -> None:
    config, model = upstream("bart", SEQ2SEQ_LM)
    tensors = {**state(model), "final_logits_bias": torch.zeros(shape)}
    with pytest.raises(RuntimeError, match="ignore_mismatched_sizes"):
        loaded("bart", config, tensors, tmp_path / "upstream")
    with pytest.raises(WeightsError, match=re.escape(f"must have the shape (1, 99); the checkpoint's has {shape}")):
        build(config, {name: TensorSource(value) for name, value in tensors.items()})


def test_a_decoders_vocabulary_may_be_its_own(tmp_path: Path) -> None:
    family = find_family("marian")
    config, model = upstream("marian", SEQ2SEQ_LM, family.variations[0])
    made = build(config, sources(model))
    assert [part.signature.vocab_size for part in made.parts] == [131, 103]
    folder = precast.export_model(save_checkpoint(tmp_path / "marian", config, model), tmp_path / "artifact")
    served: Any = precast.load(folder)
    source = [[130, 5, 2]]
    expected = model.generate(torch.tensor(source), max_new_tokens=8, num_beams=2)  # type: ignore[operator]
    got = served.generate(input_ids=source, max_new_tokens=8, num_beams=2)
    assert got.tolist() == expected.tolist()
    with pytest.raises(InputError, match=r"outside the model's vocabulary of 131: 131"):
        served.generate(input_ids=[[131]])
    with pytest.raises(InputError, match=r"decoder_input_ids must be 0 to 102; received 103"):
        served(input_ids=np.array([[130]]), decoder_input_ids=np.array([[103]]))


@cache
def _tiny(model_type: str, folder: Path) -> tuple[Path, Any]:
    config, model = upstream(model_type, SEQ2SEQ_LM)
    checkpoint = save_checkpoint(folder / f"{model_type}-checkpoint", config, model)
    return precast.export_model(checkpoint, folder / model_type), model


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("seq2seq")


@pytest.mark.parametrize("model_type", ["t5", "marian"])
@pytest.mark.parametrize("beams", [1, 4])
def test_an_artifact_generates_upstreams_tokens(model_type: str, beams: int, made: Path) -> None:
    """20 texts of different length in one batch, each against upstream's own of the text alone; special tokens and
    lengths come from the checkpoint."""
    folder, model = _tiny(model_type, made)
    served: Any = precast.load(folder, threads=1)
    ids, mask = prompts(99)
    eos = model.config.eos_token_id
    arguments: dict[str, Any] = {"max_new_tokens": 16, "num_beams": beams}
    got = served.generate(input_ids=ids, attention_mask=mask, **arguments)
    assert (got[:, 0] == model.config.decoder_start_token_id).all()
    for row, (text, real) in enumerate(zip(ids, mask.astype(bool), strict=True)):
        with torch.no_grad():
            expected = model.generate(torch.tensor(text[real])[None], **arguments)[0].tolist()
        body = got[row].tolist()[1:]
        assert ended(body, eos) == ended(expected[1:], eos), f"text {row}"


@pytest.mark.parametrize("model_type", ["t5", "marian"])
def test_padding_of_the_encoder_may_stand_on_either_side(model_type: str, made: Path) -> None:
    folder, model = _tiny(model_type, made)
    served: Any = precast.load(folder, threads=1)
    rng = np.random.default_rng(0)
    texts = [rng.integers(3, 99, size=length) for length in (2, 9, 5)]

    def padded(left: bool) -> tuple[Array, Array]:
        ids, mask = np.full((3, 12), 98), np.zeros((3, 12), np.int64)  # garbage, and more of it than is needed
        for row, text in enumerate(texts):
            place = slice(12 - len(text), None) if left else slice(len(text))
            ids[row, place], mask[row, place] = text, 1
        return ids, mask

    start = np.array([[4, 5, 6]] * 3)
    outputs = []
    for left in (True, False):
        ids, mask = padded(left)
        out = served(input_ids=ids, attention_mask=mask, decoder_input_ids=start)
        outputs.append((out, out["encoder_last_hidden_state"][mask != 0]))
        tokens = served.generate(input_ids=ids, attention_mask=mask, max_new_tokens=6, num_beams=3)
        outputs[-1] = (*outputs[-1], tokens)  # type: ignore[assignment]
        assert not out["encoder_last_hidden_state"][mask == 0].any(), "padding has no state"
    (one, states, tokens), (other, same_states, same_tokens) = outputs  # type: ignore[misc]
    np.testing.assert_array_equal(one["logits"], other["logits"])
    np.testing.assert_array_equal(states, same_states)
    np.testing.assert_array_equal(tokens, same_tokens)
    alone = [served(input_ids=text[None], decoder_input_ids=start[:1])["logits"][0] for text in texts]
    np.testing.assert_allclose(one["logits"], np.stack(alone), atol=1e-4)
    with torch.no_grad():
        for text, ours in zip(texts, alone, strict=True):
            theirs = model(input_ids=torch.tensor(text)[None], decoder_input_ids=torch.tensor(start[:1])).logits[0]
            np.testing.assert_allclose(ours, theirs.numpy(), atol=2e-4)


def test_texts_longer_than_the_positions_are_refused(made: Path) -> None:
    folder, _ = _tiny("marian", made)
    served: Any = precast.load(folder, threads=1)
    with pytest.raises(InputError, match=r"reads texts of 160 tokens; received 161\. Cut the text"):
        served.generate(input_ids=[[5] * 161])
    with pytest.raises(InputError, match=r"a text may have 160 tokens; received 161"):
        served(input_ids=np.full((1, 161), 5), decoder_input_ids=np.array([[4]]))
    with pytest.raises(InputError, match=r"a text may have 160 tokens; received 161"):
        served(input_ids=np.array([[5]]), decoder_input_ids=np.full((1, 161), 5))
    with pytest.raises(InputError, match=r"holds 160 tokens"):
        served.generate(input_ids=[[5]], decoder_input_ids=[[98] + [5] * 160])
    # Padding is no token: a wide batch of short texts is no long text.
    wide = np.zeros((1, 300), np.int64)
    wide[0, -2:] = 7
    assert served.generate(input_ids=wide, attention_mask=(wide > 0).astype(np.int64), max_new_tokens=3).shape[1] <= 4
    full = served.generate(input_ids=[[5]], max_length=10_000, eos_token_id=None)
    assert full.shape[1] == 160, "generation ends with the positions"


def test_t5_reads_texts_of_any_length(made: Path) -> None:
    folder, model = _tiny("t5", made)
    served: Any = precast.load(folder, threads=1)
    source, target = np.arange(700)[None] % 90 + 3, np.arange(300)[None] % 80 + 5
    with torch.no_grad():
        expected = model(input_ids=torch.tensor(source), decoder_input_ids=torch.tensor(target)).logits.numpy()
    got = served(input_ids=source, decoder_input_ids=target)["logits"]
    np.testing.assert_allclose(got, expected, atol=5e-4)


def test_wrong_calls_are_refused(made: Path) -> None:
    folder, _ = _tiny("t5", made)
    served: Any = precast.load(folder, threads=1)
    with pytest.raises(InputError, match=r"needs decoder_input_ids beside input_ids"):
        served(input_ids=np.array([[5]]))
    with pytest.raises(InputError, match=r"batch is one size in all inputs; received .*'decoder_input_ids': \(2, 1\)"):
        served(input_ids=np.array([[5]]), decoder_input_ids=np.array([[5], [6]]))
    with pytest.raises(InputError, match=r"decoder_input_ids has 1 rows for 2 prompts"):
        served.generate(input_ids=[[5], [6]], decoder_input_ids=[[0]])


def test_what_config_json_leaves_out_travels_in_the_artifact(tmp_path: Path) -> None:
    config, model = upstream("bart", SEQ2SEQ_LM)
    silent = {
        key: value for key, value in config.items() if not key.endswith("_token_id") and not key.startswith("is_")
    }
    folder = precast.export_model(save_checkpoint(tmp_path / "bart", silent, model), tmp_path / "artifact")
    served: Any = precast.load(folder)
    # BART's own: it begins with </s> (2), and the last token that fits is </s> too.
    got = served.generate(input_ids=[[5, 6, 7]], max_length=6)[0].tolist()
    assert got[0] == 2 and got[-1] == 2 and len(got) <= 6


@pytest.mark.parametrize("model_type", ["t5", "marian"])
def test_an_artifact_proves_itself_and_its_damage_is_found(model_type: str, made: Path, tmp_path: Path) -> None:
    folder, _ = _tiny(model_type, made)
    report = precast.verify(folder)
    assert report["variants"] and all(one["status"] == "verified" for one in report["variants"].values())
    assert all({"last_hidden_state", "logits"} <= set(one["outputs"]) for one in report["variants"].values())
    manifest = json.loads((folder / "precast.json").read_text())
    graphs = [variant["graph"] for variant in manifest["components"]["encoder"]["variants"].values()]
    graphs += [variant["graph"] for variant in manifest["components"]["decoder"]["variants"].values()]
    for name in (*graphs, "config.json"):
        copy = shutil.copytree(folder, tmp_path / "copy", dirs_exist_ok=True)
        damaged = bytearray((copy / name).read_bytes())
        damaged[len(damaged) // 2] ^= 0xFF
        (copy / name).write_bytes(bytes(damaged))
        with pytest.raises(IntegrityError, match=Path(name).name.replace(".", r"\.")):
            precast.load(copy)
        with pytest.raises(IntegrityError):
            precast.verify(copy)
    (tmp_path / "copy" / graphs[0]).unlink()
    with pytest.raises(IntegrityError, match=Path(graphs[0]).name):
        precast.load(tmp_path / "copy")


def random_texts(count: int) -> list[str]:
    rng = np.random.default_rng(11)
    return ["".join(map(str, rng.integers(0, 10, size=rng.integers(1, LONGEST + 1)))) for _ in range(count)]


def test_what_was_taught_to_turn_digits_around_does_so(tmp_path: Path) -> None:
    folder = precast.export_model(reverser(), tmp_path / "reverser")
    served: Any = precast.load(folder, threads=1)
    texts = random_texts(40)
    for beams in (1, 4):
        got = served.generate(input_ids=[[*digits(text), END] for text in texts], num_beams=beams, max_new_tokens=10)
        answers = [ended(row[1:].tolist(), END) for row in got]
        assert answers == [[*digits(text[::-1]), END] for text in texts]
        assert (got[:, 0] == PADDING).all(), "its start token"


def test_what_was_taught_to_repeat_digits_does_so(tmp_path: Path) -> None:
    folder = precast.export_model(copier(), tmp_path / "copier")
    served: Any = precast.load(folder, threads=1)
    texts = random_texts(40)
    prompts_given = [[*digits(text), SEPARATOR] for text in texts]
    for beams in (1, 3):
        got = served.generate(input_ids=prompts_given, num_beams=beams, max_new_tokens=LONGEST + 2)
        width = max(map(len, prompts_given))
        assert [ended(row[width:].tolist(), END) for row in got] == [[*digits(text), END] for text in texts]
