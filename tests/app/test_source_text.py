"""What is copied is what was written: code blocks out of any Markdown, and the text of a turn."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gptoss_mlx.app.conversation import Turn
from gptoss_mlx.app.source_text import CodeBlock, code_blocks, fence_for, last_code_block, turn_text
from gptoss_mlx.harmony import ANALYSIS, Message


@pytest.mark.parametrize(
    ("text", "block"),
    [
        ("no code, `inline` only", None),
        ("```python\nprint(1)\n```\nafter", CodeBlock("print(1)\n", "python")),
        ("```\none\n```\n\n```sh\ntwo\n```", CodeBlock("two\n", "sh")),
        ("````md\n```\ninner\n```\n````", CodeBlock("```\ninner\n```\n", "md")),
        ("~~~ js title=x\n```\n~~~", CodeBlock("```\n", "js")),
        ("text\n```py\nnever closed\n  indented", CodeBlock("never closed\n  indented", "py")),
        ("1. step\n\n   ```sh\n   ls\n     -l\n   ```\n", CodeBlock("ls\n  -l\n", "sh")),
        ("> ```\n> quoted\n> ```", CodeBlock("quoted\n")),
        ("text\n\n    indented code\n    more", CodeBlock("indented code\nmore\n")),
        ("```\n```", CodeBlock("")),
        ("  ```c\n  x;\n    y;\n  ```", CodeBlock("x;\n  y;\n", "c")),
        ("```\ttabs\n\tx\n```", CodeBlock("\tx\n", "tabs")),
    ],
)
def test_the_last_block_of_code_is_found_as_it_was_written(text: str, block: CodeBlock | None):
    assert last_code_block(text) == block


@given(st.text(st.characters(codec="utf-8", exclude_characters="\r\0")))
def test_a_fence_that_is_made_for_a_text_is_closed_by_nothing_in_it(text: str):
    fence = fence_for(text)
    (block,) = code_blocks(f"{fence}\n{text}\n{fence}\n\nafter")
    assert block.code == f"{text}\n"


def test_a_turn_is_copied_as_typed_or_as_answered():
    asked = Turn(1, None, "user", (Message.user("File: a\n\nSee @a"),), text="See @a")
    thought = Message.assistant("thinking", channel=ANALYSIS)
    assert turn_text(asked) == "See @a"
    assert turn_text(Turn(2, 1, "assistant", (thought, Message.assistant("**The** answer")))) == "**The** answer"
    assert turn_text(Turn(2, 1, "assistant", (thought,))) == "thinking"
