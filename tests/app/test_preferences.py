"""Settings stand in a file that explains itself; the app changes a line, and the user's words stay."""

import threading
import tomllib
from dataclasses import fields, replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gptoss_mlx import options, tools
from gptoss_mlx.app import preferences
from gptoss_mlx.app.preferences import SETTINGS, Preferences, load_preferences, save_preference
from gptoss_mlx.errors import UsageError


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "home" / "settings.toml"


def test_the_first_file_explains_every_setting_and_sets_none(path: Path):
    assert load_preferences(path) == Preferences()
    text = path.read_text()
    assert tomllib.loads(text) == {}
    for name, setting in SETTINGS.items():
        assert f"# {setting.explanation}\n# {name} = {setting.example}\n" in text


def test_every_setting_is_explained_and_its_example_can_be_used(path: Path):
    assert [field.name for field in fields(Preferences)] == [*SETTINGS, "problems"]
    load_preferences(path)
    path.write_text("".join(f"{name} = {setting.example}\n" for name, setting in SETTINGS.items()))
    assert load_preferences(path).problems == ()
    assert load_preferences(path).context == 8192


def test_the_choices_are_those_of_the_api():
    assert preferences.EFFORTS == options.EFFORTS
    assert preferences.POLICIES == tools.POLICIES
    assert sorted(preferences.OVERFLOWS) == sorted(options.OVERFLOWS)


def test_a_setting_is_saved_beside_its_explanation_and_comments_stay(path: Path):
    path.parent.mkdir()
    path.write_text('# mine\ntheme = "nord"  # dark\n\n# How long\n# effort = "medium"\nmodel = "20b"\n')
    save_preference("theme", "dracula", path)
    save_preference("effort", "high", path)
    save_preference("model", None, path)
    assert path.read_text() == '# mine\ntheme = "dracula"  # dark\n\n# How long\n# effort = "medium"\neffort = "high"\n'
    assert load_preferences(path) == Preferences(theme="dracula", effort="high")


def test_a_setting_is_saved_where_there_is_no_file_yet(path: Path):
    save_preference("show_statistics", True, path)
    assert load_preferences(path) == Preferences(show_statistics=True)
    assert "# effort" in path.read_text()


def test_a_setting_is_never_put_into_a_table_or_a_text_of_the_users(path: Path):
    path.parent.mkdir()
    path.write_text("instructions = '''\n# effort = \"x\"\n'''\n[other]\na = 1\n")
    save_preference("effort", "low", path)
    values = tomllib.loads(path.read_text())
    assert values["effort"] == "low"
    assert values["instructions"] == '# effort = "x"\n'
    assert values["other"] == {"a": 1}


@settings(max_examples=30, deadline=None)
@given(st.text(st.characters(codec="utf-8")).filter(lambda text: text.strip()))
def test_any_instructions_come_back(tmp_path_factory: pytest.TempPathFactory, text: str):
    path = tmp_path_factory.mktemp("home") / "settings.toml"
    save_preference("instructions", text, path)
    save_preference("top_p", 0.5, path)
    assert load_preferences(path).instructions == text


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (
            'effort = "extreme"',
            "effort in {} is 'extreme'; expected one of none, low, medium, high: the default is used",
        ),
        ("effort = 3", "effort in {} is 3; expected one of"),
        ("temperature = -1", "temperature in {} is -1; expected a number, 0 or more"),
        ("temperature = nan", "temperature in {} is nan; expected"),
        ("temperature = true", "temperature in {} is True; expected"),
        ("top_p = 0", "top_p in {} is 0; expected a number above 0, at most 1"),
        ("max_tokens = 0", "max_tokens in {} is 0; expected a whole number, 1 or more"),
        ("max_tokens = 1.5", "max_tokens in {} is 1.5; expected"),
        ("context = 1", "context in {} is 1; expected a whole number, 2 or more"),
        ("keep_reasoning_open = 1", "keep_reasoning_open in {} is 1; expected true or false"),
        ('model = ""', "model in {} is ''; expected a model's name"),
        ('themes = "nord"', "{} sets 'themes', which is no setting; did you mean theme?"),
        ("problems = []", "{} sets 'problems', which is no setting; expected one of"),
        ("effort = {a = 1}", "effort in {} is {{'a': 1}}; expected"),
    ],
)
def test_a_wrong_value_is_told_and_the_others_hold(path: Path, line: str, said: str):
    path.parent.mkdir()
    path.write_text(f"{line}\nmax_reasoning_tokens = 0\n")
    found = load_preferences(path)
    assert found.max_reasoning_tokens == 0
    assert found == Preferences(max_reasoning_tokens=0, problems=found.problems)
    (problem,) = found.problems
    assert problem.startswith(said.format(path))


@pytest.mark.parametrize("data", [b"theme = ", b"\xff\xfe", b"a = " + b"[" * 5000])
def test_a_file_that_is_no_toml_is_told_and_never_overwritten(path: Path, data: bytes):
    path.parent.mkdir()
    path.write_bytes(data)
    found = load_preferences(path)
    assert found == Preferences(problems=found.problems)
    assert f"{path} is no TOML" in found.problems[0]
    with pytest.raises(UsageError, match="no TOML"):
        save_preference("effort", "low", path)
    assert path.read_bytes() == data


def test_a_wrong_setting_is_not_saved(path: Path):
    with pytest.raises(UsageError, match="no setting 'colour'"):
        save_preference("colour", "red", path)
    with pytest.raises(UsageError, match="effort is 'x'; expected one of"):
        save_preference("effort", "x", path)
    assert not path.exists()


def test_a_home_that_cannot_be_written_is_told_when_something_is_saved(path: Path):
    path.parent.write_text("a file, no folder")
    assert replace(load_preferences(path), problems=()) == Preferences()
    with pytest.raises(UsageError, match=r"effort cannot be saved in .*; it holds until the app ends"):
        save_preference("effort", "low", path)


def test_a_linked_file_stays_a_link(path: Path, tmp_path: Path):
    path.parent.mkdir()
    (tmp_path / "kept.toml").write_text('theme = "nord"\n')
    path.symlink_to(tmp_path / "kept.toml")
    save_preference("effort", "low", path)
    assert path.is_symlink()
    assert load_preferences(tmp_path / "kept.toml") == Preferences(theme="nord", effort="low")


def test_apps_that_save_at_once_lose_no_setting(path: Path):
    load_preferences(path)

    def save(name: str) -> None:
        for value in range(100, 110):
            save_preference(name, value, path)

    names = ("max_tokens", "max_reasoning_tokens", "context")
    threads = [threading.Thread(target=save, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert load_preferences(path) == Preferences(max_tokens=109, max_reasoning_tokens=109, context=109)


def test_policies_of_tools_are_kept_where_the_user_wrote_them(tmp_path: Path) -> None:
    path = tmp_path / "settings.toml"
    save_preference("tools", {"a b": "always"}, path)
    assert load_preferences(path) == Preferences(tools={"a b": "always"})
    save_preference("tools", {"a b": "never", "c": "ask"}, path)
    assert load_preferences(path).tools == {"a b": "never", "c": "ask"}
    path.write_text('theme = "auto"\n\n[tools]\n# mine\nx = "ask"\ny = "always"\n')
    save_preference("tools", {"x": "never"}, path)
    save_preference("effort", "low", path)
    assert "[tools]\n# mine\n" in path.read_text()
    assert load_preferences(path) == Preferences(tools={"x": "never"}, effort="low")


@pytest.mark.parametrize("value", ['"ask"', '{ x = "maybe" }', "{ x = true }"])
def test_a_policy_that_is_none_is_told(tmp_path: Path, value: str) -> None:
    path = tmp_path / "settings.toml"
    path.write_text(f"tools = {value}\n")
    preferences = load_preferences(path)
    assert preferences.tools == {}
    assert "expected names of tools, each with ask, always or never" in preferences.problems[0]
