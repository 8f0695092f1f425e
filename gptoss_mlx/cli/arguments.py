"""The command line's words: commands, options and their help. Imports nothing heavy."""

import argparse

from gptoss_mlx import __version__

_EXAMPLES = """\
examples:
  gptoss                                 open the app, with the pocket model that comes with the package
  gptoss pull 20b                        get gpt-oss-20b; then: gptoss chat 20b
  gptoss chat ./gpt-oss-20b              talk to a checkpoint in a folder
  gptoss ask "What are attention sinks?" one question, one answer
  cat notes.txt | gptoss ask "Sum up:"   the text of a pipe follows the question
  gptoss ask "12 times 34?" --tool calc.py:multiply    let it call a function of yours
  gptoss ask "Which is the 100th prime?" --python      let it run Python, in a sandbox
  gptoss ask "When do I fly?" --browse ~/notes         let it search and read a folder
  gptoss ask "What is in it?" --mcp "npx -y @modelcontextprotocol/server-filesystem ."    tools of an MCP server
  gptoss convert ./gpt-oss-20b           make a ready-to-run copy of a checkpoint
  gptoss info ./gpt-oss-20b              what is in a model's folder
  gptoss chat 120b --hosts mac1,mac2     share a model among machines
"""


MODEL_HELP = "'pocket' (default), a name that `gptoss list` shows, or a folder with a checkpoint"
"""What a MODEL may be."""


HOSTS_HELP = (
    "names that ssh knows, with commas between (NAME=ADDRESS where the link has an address of its own), or a hostfile "
    "of MLX; 127.0.0.1,127.0.0.1 runs two ranks here"
)
"""What HOST,HOST may be."""


def make_parser() -> argparse.ArgumentParser:
    """The parser of the whole command line."""
    parser = argparse.ArgumentParser(
        prog="gptoss",
        description="OpenAI's gpt-oss on this machine: chat, answers for scripts, and a look inside.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"gptoss-mlx {__version__}")
    parser.add_argument("--debug", action="store_true", help="show a traceback when something fails")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    _add_ask(commands)
    _add_chat(commands)
    _add_pull(commands)
    _add_list(commands)
    _add_path(commands)
    _add_rm(commands)
    _add_info(commands)
    _add_convert(commands)
    _add_verify(commands)
    _add_check(commands)
    _add_bench(commands)
    _add_evaluate(commands)
    _add_compare(commands)
    _add_hosts(commands)
    return parser


def _add_ask(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    ask = commands.add_parser(
        "ask",
        help="one question, one answer",
        description="Answers one question on standard output. "
        "Text from a pipe follows the question; '-' takes the pipe alone.",
    )
    ask.add_argument("prompt", nargs="*", metavar="QUESTION", help="the question; '-' reads it from standard input")
    ask.add_argument("-m", "--model", default="pocket", help=MODEL_HELP)
    _add_turn_options(ask)
    _add_hosts_options(ask)
    output = ask.add_mutually_exclusive_group()
    output.add_argument("--json", action="store_true", help="print every event as one JSON object a line")
    output.add_argument(
        "-x", "--extract", action="store_true", help="print the first code block of the answer and nothing else"
    )
    ask.add_argument("--show-reasoning", action="store_true", help="print the reasoning, too, on standard error")


def _add_chat(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    chat = commands.add_parser(
        "chat",
        help="a conversation, in the app or line by line",
        description="Opens the app: conversations that are kept, reasoning that folds away, models; F1 is its help. "
        "With --plain, and where there is no terminal to draw on, a conversation line by line: Ctrl-C stops an answer "
        "and keeps the chat; Ctrl-D ends it; /help lists the commands. Without a terminal it answers the lines of "
        "standard input, or one sample question when there are none.",
    )
    chat.add_argument(
        "model",
        nargs="?",
        metavar="MODEL",
        help="'pocket', a name that `gptoss list` shows, or a folder with a checkpoint (default: the app's last one; "
        "line by line: pocket)",
    )
    chat.add_argument("--plain", action="store_true", help="line by line: plain text, no screen control")
    chat.add_argument(
        "--hide-reasoning", action="store_true", help="line by line: show only how long the model thought"
    )
    chat.add_argument(
        "--kv-bits",
        type=int,
        choices=(8,),
        help="line by line: what /save keeps of the model's reading in 8 bits: half the size, and answers may differ a "
        "little",
    )
    chat.add_argument("--continue", dest="go_on", action="store_true", help="go on with the app's last conversation")
    chat.add_argument("--resume", metavar="FILE", help="go on with a chat that /save wrote; the app imports it")
    _add_turn_options(chat)
    _add_hosts_options(chat)


def _add_pull(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    pull = commands.add_parser(
        "pull",
        help="get a model: download, verify, convert",
        description="Downloads a gpt-oss from the Hugging Face Hub, verifies every file and makes it ready to run, "
        "after a look at disk and memory. Stopped, it goes on where it was when the command is given again. "
        "HF_TOKEN, HF_ENDPOINT, HF_HOME and HF_HUB_OFFLINE mean what they mean to huggingface_hub.",
    )
    pull.add_argument("model", metavar="MODEL", help="20b, 120b or OWNER/NAME, with @REVISION if not main")
    pull.add_argument(
        "--dense-bits",
        type=int,
        choices=(8, 6, 4),
        help="quantise attention, embedding and lm_head (default: keep OpenAI's exact precision)",
    )
    pull.add_argument("--path", metavar="FOLDER", help="the folder to make (default: a name that `gptoss list` shows)")
    pull.add_argument(
        "--context", type=int, default=8192, metavar="N", help="check memory for N tokens (default: 8192)"
    )
    pull.add_argument("--dry-run", action="store_true", help="say what would be done, and whether it fits; do nothing")
    pull.add_argument("--force", action="store_true", help="go on even if disk or memory seem too small")
    pull.add_argument(
        "--keep-download",
        action="store_true",
        help="keep what is downloaded in the hub's cache, too, where hf and transformers find it (a second copy)",
    )
    pull.add_argument("--limit", metavar="RATE", help="use at most RATE bytes a second, such as 500K or 2.5M")
    pull.add_argument("--connections", type=int, default=4, metavar="N", help="connections at a time (default: 4)")
    pull.add_argument(
        "--patience", type=float, metavar="SECONDS", help="give up when nothing came for so long (default: 300)"
    )
    pull.add_argument("--json", action="store_true", help="print plan, progress and result as one JSON object a line")


def _add_path(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    path = commands.add_parser("path", help="where a model's folder is", description="Prints the model's folder.")
    path.add_argument("model", nargs="?", default="pocket", metavar="MODEL", help=MODEL_HELP)
    path.add_argument("--python", action="store_true", help="instead: the Python that gptoss runs with")


def _add_rm(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    remove = commands.add_parser(
        "rm",
        help="remove a model",
        description="Removes a model from the user's models, or what a stopped download left of it. "
        "Refused while it is in use. Files in the hub's cache stay.",
    )
    remove.add_argument("model", metavar="MODEL", help="a name that `gptoss list` shows, or 20b or 120b")
    remove.add_argument("-y", "--yes", action="store_true", help="do not ask")


def _add_info(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    info = commands.add_parser(
        "info", help="what is in a model's folder", description="Shape, sizes and memory of a model."
    )
    info.add_argument("model", nargs="?", default="pocket", metavar="MODEL", help=MODEL_HELP)
    info.add_argument("--json", action="store_true", help="print one JSON object")


def _add_convert(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    convert = commands.add_parser(
        "convert",
        help="make a ready-to-run copy of a checkpoint",
        description="Converts a checkpoint (Hugging Face's layout, OpenAI's original/, mlx-community MXFP4, -Q8 or "
        "-Q4) to a folder that loads without any work. "
        "Stopped, it goes on where it was when the command is given again.",
    )
    convert.add_argument("source", metavar="SRC", help="the checkpoint's folder")
    convert.add_argument(
        "destination", nargs="?", metavar="DST", help="the folder to make (default: a name that `gptoss list` shows)"
    )
    convert.add_argument(
        "--dense-bits",
        type=int,
        choices=(8, 6, 4),
        help="quantise attention, embedding and lm_head (default: keep OpenAI's exact precision)",
    )
    convert.add_argument("--tokenizer", metavar="FILE", help="a tokenizer.json, where the source has none")
    convert.add_argument("--overwrite", action="store_true", help="replace the model at DST once the new one is whole")


def _add_list(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    listing = commands.add_parser(
        "list", help="the models that have a name here", description="The pocket model and every converted model."
    )
    listing.add_argument("--json", action="store_true", help="print one JSON object")


def _add_verify(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    verify = commands.add_parser(
        "verify",
        help="check every byte of a converted model",
        description="Compares every file of a converted model with the sha256 that was noted when it was written, and "
        "says what the model was made of: repository, commit, and the hub's sha256 of every file. Asks nobody.",
    )
    verify.add_argument("model", metavar="MODEL", help="a name that `gptoss list` shows, or a converted folder")


def _add_check(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    check = commands.add_parser(
        "check",
        help="which kernels are right and faster on this GPU",
        description="Runs every Metal kernel on this machine's GPU beside MLX's own operations, on the model's shapes, "
        "and keeps, for each, whichever is right and faster. Loading a model does so by itself the first time; "
        "GPTOSS_KERNELS=off|on|auto overrides it. Prints a table, whether gpt-oss-20b and -120b have room on this "
        "machine, then one JSON line. "
        "The exit code is 1 when a kernel is wrong or fails.",
    )
    check.add_argument("model", nargs="?", metavar="MODEL", help=MODEL_HELP)
    check.add_argument(
        "--shape",
        choices=("20b", "120b"),
        help="check on random weights of one decoder layer of this shape, without a model; keeps nothing",
    )
    check.add_argument(
        "--dense-bits", type=int, choices=(8, 6, 4), help="with --shape: dense weights as a conversion leaves them"
    )
    check.add_argument(
        "--seconds", type=float, metavar="N", help="begin no further kernel after N seconds (default: 9)"
    )
    check.add_argument(
        "--no-save", dest="save", action="store_false", help="show what is found and leave what is kept as it is"
    )


def _add_bench(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    bench = commands.add_parser(
        "bench",
        help="how fast a model runs here",
        description="Measures load time, time to first token, prefill, decode and peak memory, each run in a process "
        "of its own. Prints a table, then one JSON line.",
    )
    bench.add_argument("model", nargs="?", default="pocket", metavar="MODEL", help=MODEL_HELP)
    _add_hosts_options(bench)
    bench.add_argument("--against", choices=("mlx-lm",), help="measure this engine, too, in turn with ours")
    bench.add_argument(
        "--graph",
        action="store_true",
        help="instead: count what one decode step after --prompt-tokens asks of a GPU with Metal, and time how long "
        "Python takes to put it together; reads no weights, so MODEL may be 20b or 120b without having it",
    )
    bench.add_argument(
        "--batch", type=int, metavar="N", help="instead: decode N answers together, and one after the other"
    )
    bench.add_argument(
        "--shape",
        choices=("20b", "120b"),
        help="with --batch: random weights of two decoder layers of this shape, in place of a model",
    )
    bench.add_argument(
        "--turns",
        action="store_true",
        help="instead: play a conversation of ten turns with tool calls, and measure how much of each prompt is read "
        "again and how long its first token takes",
    )
    bench.add_argument(
        "--conversation-tokens",
        type=int,
        default=8000,
        metavar="N",
        help="with --turns: length of the last prompt (default: 8000)",
    )
    bench.add_argument("--peer-model", metavar="FOLDER", help="what that engine loads (default: the same folder)")
    bench.add_argument(
        "--prompt-tokens", type=int, default=512, metavar="N", help="length of the prompt (default: 512)"
    )
    bench.add_argument(
        "--decode-tokens", type=int, default=128, metavar="N", help="tokens decoded, the first included (default: 128)"
    )
    bench.add_argument("--runs", type=int, metavar="N", help="runs of each engine (default: 3; with --turns: 1)")
    bench.add_argument("--seed", type=int, default=0, help="which random prompt is read (default: 0)")
    bench.add_argument("--no-warm-up", action="store_true", help="measure the first request after loading")
    bench.add_argument(
        "--timeout", type=float, default=1800, metavar="SECONDS", help="how long one run may take (default: 1800)"
    )
    bench.add_argument("--json", action="store_true", help="print the JSON line only")


def _add_evaluate(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    evaluate = commands.add_parser(
        "evaluate",
        help="measure a model's answers",
        description="Asks the pocket model questions that it never saw in training. "
        "Prints a table, then one JSON line.",
    )
    evaluate.add_argument(
        "model", nargs="?", default="pocket", metavar="MODEL", help="'pocket' (default) or a folder like it"
    )
    evaluate.add_argument(
        "-n", "--questions", type=int, default=100, metavar="N", help="questions of each kind (default: 100)"
    )
    evaluate.add_argument("--kind", action="append", metavar="KIND", help="only this kind of question; may be repeated")
    evaluate.add_argument(
        "-e", "--effort", action="append", choices=("low", "medium", "high"), help="only this effort; may be repeated"
    )
    evaluate.add_argument(
        "--temperature", type=float, default=0.0, help="0 (default): the most probable token each time"
    )
    evaluate.add_argument("--seed", type=int, default=0, help="which questions are drawn (default: 0)")


def _add_compare(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    compare = commands.add_parser(
        "compare",
        help="how far versions of a model are from a reference",
        description="Compares what models predict over the same tokens, and their sizes: mean KL divergence from the "
        "reference, how often the most probable token is the same, perplexity, bytes on disk and bytes of weights read "
        "per decoded token. Without --text, over questions that the pocket model never saw in training. One model is "
        "in memory at a time. Prints a table, then one JSON line.",
    )
    compare.add_argument(
        "reference", metavar="REFERENCE", help="'pocket', a name that `gptoss list` shows, or a folder"
    )
    compare.add_argument("others", nargs="+", metavar="OTHER", help="other versions of the same model")
    compare.add_argument("--text", metavar="FILE", help="compare over this UTF-8 text")
    compare.add_argument("--window", type=int, metavar="N", help="with --text: tokens read at once (default: 1024)")
    compare.add_argument(
        "-n", "--questions", type=int, metavar="N", help="questions of each category at each effort (default: 10)"
    )
    compare.add_argument("--seed", type=int, metavar="N", help="which questions are drawn (default: 0)")


def _add_hosts(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    hosts = commands.add_parser(
        "hosts",
        help="several machines for one model: check them, copy a model to them",
        description="For --hosts of chat, ask and bench, which share a model among machines.",
    )
    actions = hosts.add_subparsers(dest="action", metavar="ACTION", required=True)
    check = actions.add_parser(
        "check",
        help="whether hosts can share a model",
        description="Looks whether ssh connects, versions are the same, the model is there, whole and the same, memory "
        "is enough, the hosts reach each other, and how fast the link between them is; says what to do about what is "
        "wrong. The exit code is 1 when something is.",
    )
    check.add_argument("hosts", metavar="HOST,HOST", help=HOSTS_HELP)
    check.add_argument("-m", "--model", default="pocket", help=MODEL_HELP)
    check.add_argument("--json", action="store_true", help="print one JSON object")
    copy = actions.add_parser(
        "copy",
        help="copy a model to hosts",
        description="Copies a converted model from here to hosts, over ssh, each file compared with its sha256. "
        "Stopped, it goes on where it was when the command is given again.",
    )
    copy.add_argument("model", metavar="MODEL", help="a name that `gptoss list` shows, or a converted folder")
    copy.add_argument("hosts", metavar="HOST[,HOST]", help="names that ssh knows, with commas between")


def _add_hosts_options(parser: argparse.ArgumentParser) -> None:
    """Where the model runs."""
    several = parser.add_argument_group("several machines")
    several.add_argument("--hosts", metavar="HOST,HOST", help=f"share the model among machines: {HOSTS_HELP}")
    several.add_argument(
        "--host-mode",
        choices=("tensor", "pipeline"),
        help="how they share it: each has a part of every layer, or some of the layers (default: what seems faster)",
    )
    several.add_argument(
        "--host-timeout",
        type=float,
        metavar="SECONDS",
        help="give a host up that says nothing for so long (default: 10)",
    )


def _add_turn_options(parser: argparse.ArgumentParser) -> None:
    """Options that every turn takes. Their defaults are the API's."""
    turn = parser.add_argument_group("how to answer")
    turn.add_argument(
        "-e",
        "--effort",
        choices=("none", "low", "medium", "high"),
        help="how long to think first (default: medium; the pocket model: high)",
    )
    turn.add_argument("--system", metavar="TEXT", help="instructions for the model")
    turn.add_argument("--max-tokens", type=int, metavar="N", help="stop after N tokens, reasoning included")
    turn.add_argument(
        "--max-reasoning-tokens", type=int, metavar="N", help="cut the reasoning off after N tokens and answer"
    )
    turn.add_argument(
        "--temperature", type=float, metavar="T", help="0: the most probable token each time (default: 1)"
    )
    turn.add_argument("--top-p", type=float, metavar="P", help="draw from the most probable tokens that add up to P")
    turn.add_argument("--top-k", type=int, metavar="K", help="draw from the K most probable tokens")
    turn.add_argument("--min-p", type=float, metavar="P", help="drop tokens less probable than P times the best one")
    turn.add_argument("--repetition-penalty", type=float, metavar="R", help="above 1: avoid tokens already there")
    turn.add_argument("--seed", type=int, metavar="N", help="the same seed gives the same answer")
    turn.add_argument("--stop", action="append", metavar="TEXT", help="end the answer before TEXT; may be repeated")
    turn.add_argument("--date", metavar="YYYY-MM-DD", help="the date that the model is told (default: today)")
    turn.add_argument("--context", type=int, metavar="N", help="context length in tokens (default: what fits)")
    turn.add_argument(
        "--overflow",
        choices=("error", "drop_oldest"),
        help="when the context is full: an error (default), or do not read the oldest turns (default in the app)",
    )
    turn.add_argument("--force", action="store_true", help="go on even if memory seems too small")
    form = turn.add_mutually_exclusive_group()
    form.add_argument("--schema", metavar="FILE", help="a JSON schema that the answer has to fit")
    form.add_argument("--regex", metavar="REGEX", help="a regular expression that has to match the whole answer")
    form.add_argument("--choices", metavar="A,B,...", help="the answer is one of these texts")
    tools = parser.add_argument_group("tools")
    tools.add_argument(
        "--tool",
        action="append",
        metavar="MODULE:FUNCTION",
        help="a Python function that the model may call (or FILE.py:FUNCTION); may be repeated",
    )
    tools.add_argument(
        "--browse",
        action="append",
        metavar="FOLDER",
        help="let the model search and read the files of a folder (or one file), without asking; may be repeated",
    )
    tools.add_argument("--browse-web", action="store_true", help="let it open pages of the web; it asks each time")
    tools.add_argument(
        "--search-provider",
        choices=("exa", "brave"),
        help="let it search the web, too, with your key in EXA_API_KEY or BRAVE_API_KEY (implies --browse-web)",
    )
    tools.add_argument(
        "--python",
        action="store_true",
        help="let the model run Python code: in a sandbox, without network, without your files (in the app, F6 "
        "switches it, too)",
    )
    tools.add_argument(
        "--python-unsandboxed",
        action="store_true",
        help="the same without a sandbox: the code can read and change all that you can",
    )
    tools.add_argument(
        "--mcp",
        action="append",
        metavar="COMMAND",
        help="a server of tools that speaks MCP: the command that starts it, its URL, or its name in the app's "
        'settings; may be repeated (needs pip install "gptoss-mlx[mcp]")',
    )
    tools.add_argument("-y", "--yes", action="store_true", help="run tools without asking each time")
