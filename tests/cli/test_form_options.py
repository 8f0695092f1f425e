"""`--schema`, `--regex` and `--choices` as a person uses them."""

import json
from pathlib import Path

from tests.cli.test_commands import GREEDY, gptoss

SCHEMA = {
    "type": "object",
    "properties": {"sum": {"type": "integer"}},
    "required": ["sum"],
    "additionalProperties": False,
}


def test_the_answer_fits_the_schema_of_a_file_and_is_parsed_in_json(tmp_path: Path):
    (tmp_path / "sum.json").write_text(json.dumps(SCHEMA))
    asked = ("ask", "What is 17 plus 25?", "--schema", f"{tmp_path}/sum.json", *GREEDY, "-e", "high")
    done = gptoss(*asked)
    assert (done.returncode, done.stderr) == (0, "")
    assert list(json.loads(done.stdout)) == ["sum"]
    reply = json.loads(gptoss(*asked, "--json").stdout.splitlines()[-1])["reply"]
    assert reply["parsed"] == json.loads(done.stdout)


def test_the_answer_is_one_of_the_choices():
    done = gptoss("ask", "Which?", "--choices", "yes, no", *GREEDY, "-e", "none")
    assert done.stdout.strip() in ("yes", "no")


def test_a_schema_that_is_none_is_one_clear_sentence(tmp_path: Path):
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / "list.json").write_text("[]")
    (tmp_path / "wrong.json").write_text('{"type": "thing"}')
    for name, message in (
        ("missing.json", "cannot be read (No such file or directory)"),
        ("broken.json", "is no JSON"),
        ("list.json", "expected a JSON schema, which is an object"),
        ("wrong.json", "schema is no JSON schema"),
    ):
        done = gptoss("ask", "x", "--schema", f"{tmp_path}/{name}")
        assert done.returncode == 2
        assert message in done.stderr
        assert done.stderr.count("\n") == 1
