"""Messages to ids and ids to text: turns, thinking, and templates that refuse."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dgbatch.engine.tokenizer import Parsed, Tokenizer
from dgbatch.errors import CheckpointError, RowError
from tests.engine import tiny

USER = ({"role": "user", "content": " sort 3 1 "},)


def ids(text: str) -> list[int]:
    """Token ids of text, one per character."""
    return [tiny.VOCABULARY[character] for character in text]


def with_template(folder: Path, template: str) -> Tokenizer:
    tiny.write_tokenizer(folder, template)
    return Tokenizer.load(folder)


def refusal(tokenizer: Tokenizer) -> str:
    with pytest.raises(RowError) as caught:
        tokenizer.encode_chat(USER)
    assert caught.value.code == "template_error"
    return caught.value.message


def test_without_thinking_an_empty_thought_channel_is_already_in_the_prompt(tokenizer: Tokenizer) -> None:
    assert tokenizer.render(USER, thinking=False) == (
        "<bos><|turn>user\nsort 3 1<turn|>\n<|turn>model\n<|channel>thought\n<channel|>"
    )


def test_with_thinking_the_system_turn_asks_for_it(tokenizer: Tokenizer) -> None:
    assert tokenizer.render(USER, thinking=True) == (
        "<bos><|turn>system\n<|think|>\n<turn|>\n<|turn>user\nsort 3 1<turn|>\n<|turn>model\n"
    )


def test_turns_of_both_sides_follow_each_other(tokenizer: Tokenizer) -> None:
    messages = [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c"},
    ]
    assert tokenizer.render(messages, thinking=False) == (
        "<bos><|turn>system\nbe brief<turn|>\n<|turn>user\na<turn|>\n<|turn>model\nb<turn|>\n<|turn>user\nc<turn|>\n"
        "<|turn>model\n<|channel>thought\n<channel|>"
    )


def test_special_tokens_of_the_template_become_one_id_each(tokenizer: Tokenizer) -> None:
    encoded = tokenizer.encode_chat(USER)
    assert encoded[:2] == [tiny.VOCABULARY["<bos>"], tiny.VOCABULARY["<|turn>"]]
    assert encoded.count(tiny.TURN_END) == 1
    assert encoded[-1] == tiny.CHANNEL_END
    assert encoded.count(tiny.VOCABULARY["<bos>"]) == 1  # the template writes it; the tokenizer adds no second


def test_text_survives_encoding_and_decoding(tokenizer: Tokenizer) -> None:
    for text in ("abc 123", "  two\nlines ", "é<é>", ""):
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_half_a_surrogate_pair_costs_the_row_and_not_the_engine(tokenizer: Tokenizer) -> None:
    with pytest.raises(RowError, match="not text that UTF-8 can hold") as caught:
        tokenizer.encode_chat([{"role": "user", "content": "a \ud800"}])
    assert caught.value.code == "bad_text"


def test_a_text_beyond_any_context_costs_its_row_before_it_is_encoded(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dgbatch.engine.tokenizer.MOST_CHARACTERS", 20)
    assert len(tokenizer.encode("a" * 20)) == 20
    with pytest.raises(RowError, match="the prompt has 21 characters, more than the 20 of any context") as caught:
        tokenizer.encode("a" * 21)
    assert caught.value.code == "prompt_too_long"


def test_special_tokens_are_left_out_of_decoded_text(tokenizer: Tokenizer) -> None:
    assert tokenizer.decode([*ids("ab"), tiny.EOS, 0, *ids("c")]) == "abc"


def test_a_piece_is_the_text_of_one_token_and_a_byte_or_no_token_has_a_name(tmp_path: Path) -> None:
    tiny.write_tokenizer(tmp_path)
    raw = json.loads((tmp_path / "tokenizer.json").read_text())
    raw["model"]["vocab"] |= {"▁the": 90, "<0xE2>": 91}
    raw["decoder"] = {
        "type": "Sequence",
        "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
            {"type": "ByteFallback"},
            {"type": "Fuse"},
        ],
    }
    (tmp_path / "tokenizer.json").write_text(json.dumps(raw))
    tokenizer = Tokenizer.load(tmp_path)
    assert [tokenizer.piece(id) for id in (90, 91, tiny.TURN_END, 5000)] == [" the", "<0xE2>", "<turn|>", "<5000>"]
    assert tokenizer.special_ids == {tiny.VOCABULARY[token] for token in tiny.SPECIAL}


def test_a_turn_without_a_channel_is_all_answer(tokenizer: Tokenizer) -> None:
    assert tokenizer.parse(ids("the answer")) == Parsed("the answer", None)
    assert tokenizer.parse([]) == Parsed("", None)


def test_a_thought_channel_is_split_from_the_answer(tokenizer: Tokenizer) -> None:
    turn = [tiny.CHANNEL_START, *ids("thought\nfirst this\nthen that\n"), tiny.CHANNEL_END, *ids("42")]
    assert tokenizer.parse(turn) == Parsed("42", "first this\nthen that", len(turn) - 2)


def test_an_empty_channel_is_empty_thinking(tokenizer: Tokenizer) -> None:
    turn = [tiny.CHANNEL_START, *ids("thought\n"), tiny.CHANNEL_END, *ids("42")]
    assert tokenizer.parse(turn) == Parsed("42", "", len(turn) - 2)


def test_a_channel_that_never_closes_is_all_thinking(tokenizer: Tokenizer) -> None:
    assert tokenizer.parse([tiny.CHANNEL_START, *ids("thought\nand so")]) == Parsed("", "and so", 15)


def test_text_before_a_channel_belongs_to_the_answer(tokenizer: Tokenizer) -> None:
    turn = [*ids("a"), tiny.CHANNEL_START, *ids("thought\nb"), tiny.CHANNEL_END, *ids("c")]
    assert tokenizer.parse(turn) == Parsed("ac", "b", 11)


def test_a_channel_end_before_any_start_doubles_nothing(tokenizer: Tokenizer) -> None:
    turn = [*ids("a"), tiny.CHANNEL_END, *ids("b"), tiny.CHANNEL_START, *ids("c"), tiny.CHANNEL_END, *ids("d")]
    assert tokenizer.parse(turn) == Parsed("abd", "c", 3)
    assert tokenizer.parse([*ids("a"), tiny.CHANNEL_END, *ids("b"), tiny.CHANNEL_START]) == Parsed("ab", "", 1)


def test_a_tokenizer_without_channels_never_thinks(tmp_path: Path) -> None:
    tiny.write_tokenizer(tmp_path)
    raw = json.loads((tmp_path / "tokenizer.json").read_text().replace("<|channel>", "<|chapter>"))
    (tmp_path / "tokenizer.json").write_text(json.dumps(raw))
    assert Tokenizer.load(tmp_path).parse(ids("ab")) == Parsed("ab", None)


def test_a_template_that_raises_costs_the_row_and_gives_its_reason(tokenizer: Tokenizer) -> None:
    with pytest.raises(RowError, match="refused the messages: no role tool") as caught:
        tokenizer.encode_chat([{"role": "tool", "content": "x"}])
    assert caught.value.code == "template_error"


@pytest.mark.parametrize(
    "template",
    [
        "{{ messages[0]['content'] + 1 }}",
        "{{ 1 // 0 }}",
        "{{ nothing.at.all }}",
        "{% for x in range(10 ** 9) %}{% endfor %}",
        "{{ messages[0].items().append(1) }}",
        "{{ messages[0]['content'].index('zz') }}",
        "{{ ''.__class__.__mro__ }}",
        "{{ messages.append(1) }}",
        "{% macro again() %}{{ again() }}{% endmacro %}{{ again() }}",
    ],
)
def test_whatever_a_template_does_wrong_costs_one_row(tmp_path: Path, template: str) -> None:
    assert refusal(with_template(tmp_path, template)).startswith("the chat template refused the messages: ")


def test_a_template_sees_what_transformers_shows_it(tmp_path: Path) -> None:
    template = (
        "{% if tools is not none or documents is not none %}tools{% endif %}{{ bos_token }}{{ eos_token }}"
        "{{ add_generation_prompt }}{{ enable_thinking }}{{ messages[0] | tojson }}{{ unk_token is defined }}"
        "{% for x in [1, 2, 3] %}{% if x == 2 %}{% break %}{% endif %}{{ x }}{% endfor %}"
    )
    rendered = with_template(tmp_path, template).render(({"role": "user", "content": "<é>"},), thinking=True)
    assert rendered == '<bos><eos>TrueTrue{"role": "user", "content": "<é>"}False1'


def test_a_template_cannot_ask_for_the_date_since_tokens_would_change_overnight(tmp_path: Path) -> None:
    with pytest.raises(RowError, match="strftime_now"):
        with_template(tmp_path, "{{ strftime_now('%Y') }}").render(USER, thinking=False)


def test_a_template_in_tokenizer_config_serves_where_there_is_no_file(tmp_path: Path) -> None:
    tiny.write_tokenizer(tmp_path)
    (tmp_path / "chat_template.jinja").unlink()
    with pytest.raises(CheckpointError, match=r"no chat_template\.jinja, and none in tokenizer_config\.json"):
        Tokenizer.load(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": "{{ messages[0]['content'] }}"}))
    assert Tokenizer.load(tmp_path).encode_chat(({"role": "user", "content": "ab"},)) == ids("ab")


@pytest.mark.parametrize("template", ["{% if %}", "{{ 'a' | nofilter }}", "{% for x in y %}"])
def test_a_template_that_does_not_parse_is_the_checkpoints_fault(tmp_path: Path, template: str) -> None:
    with pytest.raises(CheckpointError, match="the chat template does not parse, line 1"):
        with_template(tmp_path, template)


def test_a_missing_tokenizer_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no tokenizer\.json"):
        Tokenizer.load(tmp_path)


@pytest.mark.parametrize("content", ["", "{", '{"model": 1}'])
def test_a_broken_tokenizer_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"tokenizer\.json: not a readable tokenizer"):
        Tokenizer.load(tmp_path)


def test_a_template_that_is_not_text_is_named(tmp_path: Path) -> None:
    tiny.write_tokenizer(tmp_path, tiny.TEMPLATE)
    (tmp_path / "chat_template.jinja").write_bytes(b"\xff\xfe")
    with pytest.raises(CheckpointError, match=r"chat_template\.jinja: not readable as text"):
        Tokenizer.load(tmp_path)
