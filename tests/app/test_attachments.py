"""Files that are named in a message go with it, as text, each in a frame that nothing in it breaks."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gptoss_mlx.app.attachments import FILE_BYTES, composed_text, count_tokens, find_mentions, read_message
from gptoss_mlx.app.conversation import Attachment
from gptoss_mlx.app.source_text import code_blocks
from gptoss_mlx.errors import UsageError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("notes.txt", "my notes.txt", "src/main.py", "it's.md", "property.d/x"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f"text of {name}\n")
    return tmp_path


@pytest.mark.parametrize(
    ("text", "paths"),
    [
        ("@notes.txt", ["notes.txt"]),
        ("Look at @notes.txt, please.", ["notes.txt"]),
        ("(see @notes.txt)", ["notes.txt"]),
        ("first\n@notes.txt\nand @src/main.py?", ["notes.txt", "src/main.py"]),
        ('What of @"my notes.txt"?', ["my notes.txt"]),
        ("What of @'my notes.txt'?", ["my notes.txt"]),
        ("What of @my\\ notes.txt?", ["my notes.txt"]),
        ("""@"it's.md" """, ["it's.md"]),
        ("@it's.md", ["it's.md"]),
        ("@./notes.txt", ["./notes.txt"]),
        ("mail ann@notes.txt", []),
        ("@property and @ann and @types/node", []),
        ("@app.route('/x')", []),
        ("a lone @ sign, @@ and @", []),
        ("\\@notes.txt", []),
        ("```python\n@notes.txt\n```", []),
        ("```python\n@notes.txt\n```\n@notes.txt", ["notes.txt"]),
        ("~~~~\n```\n@notes.txt", []),
    ],
)
def test_which_words_are_files(folder: Path, text: str, paths: list[str]):
    mentions = find_mentions(text, folder)
    assert [mention.path for mention in mentions] == paths
    for mention in mentions:
        assert text[mention.start] == "@"
        assert text[mention.start : mention.end].rstrip("\"'").endswith(mention.path[-4:])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("@note.txt", "there is no file note.txt; did you mean @notes.txt?"),
        ("@src/mian.py", "there is no file src/mian.py; did you mean @src/main.py?"),
        ("@/nowhere/at/all", "there is no file /nowhere/at/all"),
        ("@../nowhere", "there is no file ../nowhere"),
        ('@"nothing here"', "there is no file nothing here"),
        ("@src", "src is a folder; name a file in it"),
        ("@src/", "src/ is a folder"),
    ],
)
def test_what_can_only_be_meant_as_a_file_and_is_none_is_refused(folder: Path, text: str, said: str):
    with pytest.raises(UsageError) as caught:
        read_message(text, folder)
    assert str(caught.value).startswith(said)


def test_the_model_reads_the_files_and_then_what_was_typed(folder: Path):
    message, attachments = read_message("Compare @notes.txt and @src/main.py, then @notes.txt again", folder)
    assert attachments == (
        Attachment("notes.txt", "text of notes.txt\n"),
        Attachment("src/main.py", "text of src/main.py\n"),
    )
    assert message.role == "user"
    assert message.text == (
        "File: notes.txt\n```txt\ntext of notes.txt\n```\n\nFile: src/main.py\n```py\ntext of src/main.py\n```\n\n"
        "Compare @notes.txt and @src/main.py, then @notes.txt again"
    )


def test_a_message_without_files_is_what_was_typed(folder: Path):
    text = "  What is a @property?\n\n```\n@notes.txt\n"
    message, attachments = read_message(text, folder)
    assert attachments == ()
    assert message.text == text
    assert read_message("\\@notes.txt", folder)[0].text == "@notes.txt"


def test_a_home_folder_is_meant_by_its_sign(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", str(folder))
    assert read_message("@~/notes.txt", Path("/"))[1][0].text == "text of notes.txt\n"


def test_relative_files_are_from_the_current_folder(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(folder)
    assert [attachment.path for attachment in read_message("@notes.txt")[1]] == ["notes.txt"]


@given(st.text(), st.text(st.characters(codec="utf-8", exclude_characters="\r\0")))
def test_nothing_in_a_file_or_its_name_breaks_its_frame(name: str, text: str):
    composed = composed_text("the question", (Attachment(name, text),))
    (block,) = code_blocks(composed)
    assert block.code.rstrip("\n") == text.rstrip("\n")
    assert composed.endswith("\n\nthe question")


def test_what_is_no_text_is_refused(folder: Path):
    for name, data in (("nul", b"a\0b"), ("latin", "é".encode("latin-1")), ("utf16", "text".encode("utf-16"))):
        (folder / name).write_bytes(data)
        with pytest.raises(UsageError, match=f"{name} is no text in UTF-8"):
            read_message(f"@{name}", folder)


def test_a_byte_order_mark_is_no_part_of_the_text(folder: Path):
    (folder / "marked").write_bytes(b"\xef\xbb\xbftext")
    assert read_message("@marked", folder)[1][0].text == "text"


def test_a_file_that_is_too_large_is_refused_with_its_size(folder: Path):
    (folder / "large").write_bytes(b"x" * (FILE_BYTES + 1))
    with pytest.raises(UsageError, match=r"large is too large to attach: 1\.0 MiB, 1 MiB at most"):
        read_message("@large", folder)
    (folder / "large").write_bytes(b"x" * FILE_BYTES)
    assert len(read_message("@large", folder)[1][0].text) == FILE_BYTES


def test_a_pipe_is_refused_without_waiting(folder: Path):
    os.mkfifo(folder / "pipe")
    with pytest.raises(UsageError, match="pipe is no regular file"):
        read_message("@pipe", folder)


def test_a_link_to_nothing_is_refused(folder: Path):
    (folder / "link").symlink_to("nothing")
    with pytest.raises(UsageError, match="link cannot be read: no such file"):
        read_message("@link", folder)


def test_an_attachment_costs_the_tokens_of_its_frame():
    counted: list[str] = []

    def count(text: str) -> int:
        counted.append(text)
        return len(text)

    attachments = (Attachment("a", "one"), Attachment("b", "three"))
    costs = count_tokens(attachments, count)
    assert [attachment.text for attachment in costs] == ["one", "three"]
    assert "".join(counted) + "question" == composed_text("question", attachments)
    assert sum(attachment.tokens or 0 for attachment in costs) == len("".join(counted))
