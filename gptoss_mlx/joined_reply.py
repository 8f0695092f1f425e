"""The reply of a turn that took several rounds: what the model said before and after its tools ran, in one."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from gptoss_mlx.events import Reply, Stats, ToolResult


def join_replies(replies: Sequence[Reply], results: Sequence[ToolResult]) -> Reply:
    """One reply of at least one: texts and calls of all, and how the last one ended. Figures are those of all rounds
    together, times of tools not counted; the time to the first token is that of the first."""
    last = replies[-1]
    if len(replies) == 1:
        return replace(last, tool_results=tuple(results))

    def joined(part: Callable[[Reply], str], between: str = "\n\n") -> str:
        return between.join(text for reply in replies if (text := part(reply)))

    return replace(
        last,
        text=joined(lambda reply: reply.text),
        reasoning=joined(lambda reply: reply.reasoning),
        commentary=joined(lambda reply: reply.commentary),
        tool_calls=tuple(call for reply in replies for call in reply.tool_calls),
        tool_results=tuple(results),
        rounds=len(replies),
        reasoning_truncated=any(reply.reasoning_truncated for reply in replies),
        stats=_added([reply.stats for reply in replies]),
        raw=joined(lambda reply: reply.raw, ""),
        tokens=tuple(token for reply in replies for token in reply.tokens),
        logprobs=None if last.logprobs is None else tuple(p for reply in replies for p in reply.logprobs or ()),
        warnings=tuple(warning for reply in replies for warning in reply.warnings),
    )


def _added(stats: Sequence[Stats]) -> Stats:
    return Stats(
        prompt_tokens=sum(each.prompt_tokens for each in stats),
        cached_tokens=sum(each.cached_tokens for each in stats),
        reasoning_tokens=sum(each.reasoning_tokens for each in stats),
        answer_tokens=sum(each.answer_tokens for each in stats),
        generated_tokens=sum(each.generated_tokens for each in stats),
        ttft_seconds=stats[0].ttft_seconds,
        prompt_seconds=sum(each.prompt_seconds for each in stats),
        generation_seconds=sum(each.generation_seconds for each in stats),
        peak_memory_bytes=max(each.peak_memory_bytes for each in stats),
    )
