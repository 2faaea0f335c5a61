from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dgbatch.demo import checkpoint_files as files
from dgbatch.demo.tasks import TASK_NAMES, examples
from dgbatch.engine.model.config import ModelConfig
from dgbatch.engine.tokenizer import Tokenizer
from dgbatch.engine.weights import load_transformer

PACKAGED = Path(files.__file__).parent / "checkpoint"


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    folder = tmp_path_factory.mktemp("checkpoint")
    files.write_files(folder)
    return Tokenizer.load(folder)


def tokens(tokenizer: Tokenizer, messages: list[dict[str, str]], thinking: bool = False) -> list[str]:
    names = {index: token for token, index in files.VOCABULARY.items()}
    return [names[index] for index in tokenizer.encode_chat(messages, thinking)]


def test_the_vocabulary_begins_as_gemmas_does_and_has_every_printable_character() -> None:
    assert [files.VOCABULARY[token] for token in ("<pad>", "<eos>", "<bos>")] == [0, 1, 2]
    assert sorted(files.VOCABULARY.values()) == list(range(110))
    assert all(chr(code) in files.VOCABULARY for code in range(32, 127))


@given(text=st.text(st.sampled_from(files.CHARACTERS)))
def test_any_printable_text_comes_back(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_characters_outside_the_vocabulary_are_unknown(tokenizer: Tokenizer) -> None:
    assert tokenizer.encode("aé") == [files.VOCABULARY["a"], files.VOCABULARY["<unk>"]]


def test_role_words_are_one_token_and_words_that_hold_them_are_not(tokenizer: Tokenizer) -> None:
    assert tokenizer.encode("user") == [files.VOCABULARY["user"]]
    assert len(tokenizer.encode("users")) == 5


def test_without_thinking_the_prompt_ends_in_an_empty_thought_channel(tokenizer: Tokenizer) -> None:
    assert tokens(tokenizer, [{"role": "user", "content": " hi \n"}]) == [
        *("<bos>", "<|turn>", "user", "\n", "h", "i", "<turn|>", "\n"),
        *("<|turn>", "model", "\n", "<|channel>", "thought", "\n", "<channel|>"),
    ]


def test_thinking_is_asked_for_in_a_system_turn(tokenizer: Tokenizer) -> None:
    assert tokens(tokenizer, [{"role": "user", "content": "hi"}], thinking=True) == [
        *("<bos>", "<|turn>", "system", "\n", "<|think|>", "\n", "<turn|>", "\n"),
        *("<|turn>", "user", "\n", "h", "i", "<turn|>", "\n", "<|turn>", "model", "\n"),
    ]


def test_system_text_comes_first_and_assistant_turns_are_the_models(tokenizer: Tokenizer) -> None:
    messages = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
        {"role": "system", "content": "c"},
        {"role": "user", "content": "d"},
    ]
    text = tokenizer.render(messages, thinking=False)
    assert text == (
        "<bos><|turn>system\nc<turn|>\n<|turn>user\na<turn|>\n<|turn>model\nb<turn|>\n<|turn>user\nd<turn|>\n"
        "<|turn>model\n<|channel>thought\n<channel|>"
    )


@pytest.mark.parametrize("task", TASK_NAMES)
def test_training_sees_the_prompts_that_the_chat_template_makes(tokenizer: Tokenizer, task: str) -> None:
    for prompt, _ in examples(task, seed=3, rows=20, held_out=True):
        assert files.prompt_ids(prompt) == tokenizer.encode_chat([{"role": "user", "content": prompt}])


def test_an_answer_ends_its_turn_and_fills_its_canvas() -> None:
    ids = files.answer_ids("ab")
    assert ids[:3] == [files.VOCABULARY["a"], files.VOCABULARY["b"], files.END_OF_TURN]
    assert ids[3:] == [files.EOS] * 45
    assert len(files.answer_ids("x" * 47)) == 48
    assert len(files.answer_ids("x" * 48)) == 96


def test_the_packaged_files_are_what_the_code_writes(tmp_path: Path) -> None:
    files.write_files(tmp_path, "bfloat16")
    for made in tmp_path.iterdir():
        assert (PACKAGED / made.name).read_text() == made.read_text(), made.name


def test_the_packaged_weights_are_small_and_fit_their_config() -> None:
    assert (PACKAGED / "model.safetensors").stat().st_size < 8e6
    model = load_transformer(PACKAGED)
    assert 1e6 < sum(parameter.numel() for parameter in model.parameters()) < 3e6
    assert model.config == ModelConfig.from_dict(files.model_config("bfloat16"))
    assert {layer.sliding for layer in model.config.layers} == {True, False}
