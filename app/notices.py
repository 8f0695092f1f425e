"""What the line above the composer says when nothing went wrong: what is edited, who waits for what."""

from gptoss_mlx.app.answer_queue import AnswerQueue
from gptoss_mlx.app.conversation import Turn
from gptoss_mlx.app.displayed_text import displayable
from gptoss_mlx.app.open_chat import OpenChat
from gptoss_mlx.app.session import ModelSession


def notice_text(chat: OpenChat, editing: Turn | None, answers: AnswerQueue, session: ModelSession) -> str:
    """One sentence or two; empty when there is nothing to say."""
    if editing is not None:
        return "Editing an earlier message: Enter sends it as a branch, Esc leaves it."
    running, question = answers.running, answers.question
    if running is not None and question is not None and running.conversation != chat.id:
        return f"Another conversation waits for your word: may {displayable(question.tool)} run? F7 opens it."
    if chat.id is not None and answers.waiting(chat.id) is not None:
        return f"Your message waits: {_waits_for(answers, session)}. Esc lets it go unanswered."
    last = chat.path[-1] if chat.path else None
    if last is not None and last.role == "user" and answers.under_way(chat.id) is None:
        return "The last message has no answer yet: Tab and r get one."
    if session.state == "failed":
        return f"{session.name} is not loaded: {session.error}"
    if session.unloaded and answers.running is None:
        return f"{session.name} is unloaded (idle); it loads again with the next message."
    return ""


def _waits_for(answers: AnswerQueue, session: ModelSession) -> str:
    if session.state == "loading":
        done, total = session.progress or (0, 0)
        return f"{session.name} is being loaded{f' ({100 * done // total} %)' if total else ''}"
    if session.state == "failed":
        return f"{session.name} could not be loaded ({session.error}); choose a model (F4)"
    if session.state == "none":
        return "no model is loaded; choose one (F4)"
    return "another answer comes first" if answers.running is not None else "it is next"
