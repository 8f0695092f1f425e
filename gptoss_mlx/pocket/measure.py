"""Measures a saved training state on the held-out questions: `python -m gptoss_mlx.pocket.measure STATE --count 100`.

Needs the `train` extra. Prints a table; the last line is one JSON object.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import torch

from gptoss_mlx.harmony import encode_pieces
from gptoss_mlx.harmony.render import Special, Text
from gptoss_mlx.pocket.conversations import Conversation, Part
from gptoss_mlx.pocket.corpus import make_batches
from gptoss_mlx.pocket.decode import generate_batch, rounded_copy
from gptoss_mlx.pocket.evaluate import CATEGORIES, EFFORTS, AnswerAll, Prompt, Reply, evaluate, summarise
from gptoss_mlx.pocket.export import load_network
from gptoss_mlx.pocket.network import Network
from gptoss_mlx.pocket.rendering import conversation_ids, system_ids
from gptoss_mlx.special_tokens import START
from gptoss_mlx.tokenizer import Tokenizer


def prompt_ids(prompt: Prompt, tokenizer: Tokenizer) -> list[int]:
    """Token ids of the prompt, up to and with `<|start|>assistant`."""
    conversation = Conversation(prompt.effort, tuple(Part(message) for message in prompt.messages), "", prompt.tools)
    system = system_ids(prompt.effort, prompt.date, bool(prompt.tools), tokenizer)
    return (
        system
        + conversation_ids(conversation, tokenizer)[0]
        + encode_pieces([Special(START), Text("assistant")], tokenizer)
    )


def read_reply(ids: Sequence[int], tokenizer: Tokenizer) -> Reply:
    """The parts of a sampled turn, read strictly: anything unusual makes it not well-formed."""
    special = tokenizer.special
    parts: list[tuple[int, str, int]] = []
    text: list[int] = []
    kind = special.start
    for token in ids:
        if tokenizer.is_special(token):
            parts.append((kind, tokenizer.decode(text), len(text)))
            kind, text = token, []
        else:
            text.append(token)
    parts.append((kind, tokenizer.decode(text), len(text)))
    kinds = [part[0] for part in parts]
    texts = [part[1] for part in parts]
    thought = [special.start, special.channel, special.message, special.end, special.start]
    analysis, length = (texts[2], parts[2][2]) if len(parts) > 2 else ("", 0)
    opened = kinds[:5] == thought and texts[:2] == ["", "analysis"] and texts[3] == ""
    answer, call = (
        [special.channel, special.message, special.return_],
        [special.channel, special.constrain, special.message, special.call],
    )
    if opened and kinds[5:] == answer and texts[4:6] == ["assistant", "final"] and texts[7] == "":
        return Reply(texts[6], None, analysis, length, True)
    if (
        opened
        and kinds[5:] == call
        and texts[4].startswith("assistant to=")
        and texts[5:7] == ["commentary ", "json"]
        and texts[8] == ""
    ):
        return Reply(None, (texts[4].removeprefix("assistant to="), texts[7]), analysis, length, True)
    return Reply(None, None, analysis, length, False)


def network_answers(
    network: Network, tokenizer: Tokenizer, temperature: float = 0.0, batch: int = 50, max_tokens: int = 320
) -> AnswerAll:
    """A function that answers prompts with the network as its checkpoint holds it."""
    rounded = rounded_copy(network)

    def answer_all(prompts: Sequence[Prompt]) -> list[Reply]:
        replies: list[Reply] = []
        for start in range(0, len(prompts), batch):
            encoded = [prompt_ids(prompt, tokenizer) for prompt in prompts[start : start + batch]]
            made = generate_batch(rounded, encoded, tokenizer.special.stop_ids, max_tokens, temperature, start)
            replies += [read_reply(ids, tokenizer) for ids in made]
        return replies

    return answer_all


def expert_load(network: Network, tokenizer: Tokenizer, batches: int = 4) -> list[float]:
    """Each layer's entropy of expert load on fresh conversations, as a part of the uniform one."""
    with torch.no_grad():
        rounded = rounded_copy(network)
        total = torch.zeros(network.dims.num_layers, network.dims.num_experts)
        stream = make_batches(987654321, tokenizer, 8, 384)
        for _ in range(batches):
            batch = next(stream)
            _, _, loads = rounded.hidden(
                batch.ids, batch.positions, batch.masks(network.dims.sliding_window, torch.float32), torch.float32
            )
            total += torch.stack(loads).float()
    shares = total / total.sum(-1, keepdim=True)
    entropy = -(shares * (shares + 1e-9).log()).sum(-1) / torch.log(torch.tensor(float(network.dims.num_experts)))
    return [round(float(each), 4) for each in entropy]


def main() -> None:
    """Reads the arguments and measures."""
    parser = argparse.ArgumentParser(description="Measure a training state on held-out questions.")
    parser.add_argument("state", type=Path)
    parser.add_argument("--tokenizer", type=Path, default=Path(__file__).parent / "checkpoint" / "tokenizer.json")
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--categories", nargs="*", default=list(CATEGORIES))
    parser.add_argument("--efforts", nargs="*", default=list(EFFORTS))
    arguments = parser.parse_args()
    tokenizer = Tokenizer.from_file(arguments.tokenizer)
    network = load_network(arguments.state, arguments.tokenizer)
    scores = evaluate(
        network_answers(network, tokenizer, arguments.temperature),
        arguments.count,
        categories=arguments.categories,
        efforts=arguments.efforts,
    )
    for each in scores:
        print(
            f"{each.category:16} {each.effort:7} right {each.right:6.1%}  "
            f"analysis {each.analysis_tokens:6.1f} tokens  well-formed {each.well_formed:6.1%}"
        )
    summary = summarise(scores) | {
        "temperature": arguments.temperature,
        "load_entropy": expert_load(network, tokenizer),
    }
    print(json.dumps(summary))


if __name__ == "__main__":
    main()
