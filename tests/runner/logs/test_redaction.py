from __future__ import annotations

import pytest

from dgbatch.runner.logs.redaction import Redaction


@pytest.mark.parametrize(
    ("said", "written"),
    [
        ("cannot read s3://b/hunter2/x", "cannot read s3://b/${BUCKET}/x"),
        ("token abcdefgh12345 was refused", "token ${HF_TOKEN} was refused"),
        ("GET https://h/k?X-Amz-Signature=0a1b&x=1", "GET https://h/k?X-Amz-Signature=...&x=1"),
        ("PUT https://h/k?sv=2024&sig=ab%2Fcd%3D", "PUT https://h/k?sv=2024&sig=..."),
        ("redis://user:pass@host:1", "redis://...@host:1"),
        ("{'Authorization': 'Bearer abcdef.ghijkl'}", "{'Authorization': 'Bearer ...'}"),
        ("parallelism is false, sign=12, a design=3", "parallelism is false, sign=12, a design=3"),
        ("https://host:8080/a@b", "https://host:8080/a@b"),
    ],
)
def test_secrets_leave_and_plain_text_stays(said: str, written: str):
    environment = {"HF_TOKEN": "abcdefgh12345", "TOKENIZERS_PARALLELISM": "false", "SHORT_KEY": "is", "HOME": "/root/x"}
    assert Redaction({"hunter2": "${BUCKET}"}, environment)(said) == written


def test_the_longer_of_two_secrets_goes_first():
    assert Redaction({"abc": "${A}", "abcdef": "${B}"}, {})("abcdef abc") == "${B} ${A}"
