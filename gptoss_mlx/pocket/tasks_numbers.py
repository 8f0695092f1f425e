"""Exchanges about numbers: sums, differences, products, comparisons and sorting.

The analysis at effort high writes every column with its carry, medium takes a shorter way with harder steps, low does
none.
"""

from random import Random

from gptoss_mlx.pocket.conversations import Exchange, is_held_out

COLUMNS = ("Ones", "Tens", "Hundreds", "Thousands", "Ten thousands")

ADD = (
    "{a}+{b}",
    "{a} + {b}",
    "{a}+{b}=",
    "{a} + {b} = ?",
    "{a}+{b}?",
    "What is {a} plus {b}?",
    "what is {a}+{b}",
    "What is {a} + {b}?",
    "What's {a} + {b}?",
    "add {a} and {b}",
    "Add {a} and {b}.",
    "Please add {a} and {b}.",
    "How much is {a} plus {b}?",
    "How much is {a} + {b}?",
    "Compute {a} + {b}.",
    "Calculate {a}+{b}",
    "What is the sum of {a} and {b}?",
    "sum of {a} and {b}",
    "{a} plus {b}",
    "Can you add {a} and {b}?",
    "I have {a} apples and get {b} more. How many do I have?",
    "what does {a} plus {b} make?",
    "Tell me {a} + {b}",
    "Work out {a} + {b}",
    "solve {a}+{b}",
    "hi, what is {a}+{b}?",
)
SUBTRACT = (
    "{a}-{b}",
    "{a} - {b}",
    "{a}-{b}=",
    "What is {a} minus {b}?",
    "what is {a}-{b}",
    "What is {a} - {b}?",
    "What's {a} - {b}?",
    "subtract {b} from {a}",
    "Subtract {b} from {a}.",
    "Take {b} away from {a}.",
    "How much is {a} minus {b}?",
    "Compute {a} - {b}.",
    "Calculate {a}-{b}",
    "{a} minus {b}",
    "I have {a} coins and spend {b}. How many are left?",
    "Work out {a} - {b}",
    "What is the difference between {a} and {b}?",
)
MULTIPLY = (
    "{a}*{b}",
    "{a} * {b}",
    "{a}x{b}",
    "{a} x {b}",
    "What is {a} times {b}?",
    "what is {a}*{b}",
    "What is {a} * {b}?",
    "multiply {a} by {b}",
    "Multiply {a} and {b}.",
    "How much is {a} times {b}?",
    "Compute {a} * {b}.",
    "Calculate {a}*{b}",
    "{a} times {b}",
    "What is the product of {a} and {b}?",
)
COMPARE = (
    "Which is {more}, {a} or {b}?",
    "which number is {more}: {a} or {b}",
    "What is {more}, {a} or {b}?",
    "{more}: {a} or {b}?",
    "Which of {a} and {b} is {more}?",
    "Tell me which is {more}, {a} or {b}.",
)
SORT = (
    "Sort {list}",
    "sort these numbers: {list}",
    "Sort {list}.",
    "Put {list} in order.",
    "Sort the numbers {list}",
    "Order {list} from small to large.",
    "Please sort {list}.",
    "Can you sort {list}?",
    "sort {list} please",
)


def number(rng: Random) -> int:
    """A number of one to three digits, longer ones more often."""
    digits = rng.choices((1, 2, 3), (15, 40, 45))[0]
    return rng.randint(0 if digits == 1 else 10 ** (digits - 1), 10**digits - 1)


def sum_key(a: int, b: int) -> str:
    """The key of a sum, the same in both orders; sums of a one-digit number are steps, never held out."""
    return f"add:{min(a, b)},{max(a, b)}"


def may_state_sum(a: int, b: int) -> bool:
    """Whether training text may hold this sum as a whole."""
    return not is_held_out(sum_key(a, b))


def addition_columns(a: int, b: int) -> str:
    """Column addition, every column with its carry."""
    steps, carry, width = [], 0, len(str(max(a, b)))
    for column in range(width):
        x, y = a // 10**column % 10, b // 10**column % 10
        total = x + y + carry
        shown = f"{x}+{y}" if column == 0 else f"{x}+{y}+{carry}"
        carry = total // 10
        digit = total % 10 if column < width - 1 else total
        steps.append(
            f"{COLUMNS[column]} {shown}={total}: {digit}" + (f" carry {carry}." if column < width - 1 else ".")
        )
    return " ".join(steps)


def subtraction_columns(a: int, b: int) -> str:
    """Column subtraction of b <= a, every column with its borrow."""
    steps, borrow = [], 0
    for column in range(len(str(a))):
        x, y = a // 10**column % 10, b // 10**column % 10
        lent = 1 if x - y - borrow < 0 else 0
        shown = f"{x + 10 * lent}-{y}" if column == 0 else f"{x + 10 * lent}-{y}-{borrow}"
        steps.append(f"{COLUMNS[column]} {shown}={x + 10 * lent - y - borrow} borrow {lent}.")
        borrow = lent
    return " ".join(steps)


def addition_analysis(a: int, b: int, effort: str) -> str:
    """How the sum is found at that effort."""
    total = a + b
    if effort == "low":
        return "Addition."
    if effort == "medium":
        if max(a, b) >= 100:
            top = a // 100 * 100 + b // 100 * 100
            hundreds = f"Hundreds {a // 100}+{b // 100}={top // 100}."
            return f"Add {a}+{b}. {hundreds} Rest {a % 100}+{b % 100}={a % 100 + b % 100}."
        return f"Add {a}+{b}. Ones {a % 10}+{b % 10}={a % 10 + b % 10}."
    check = f"Check: {a % 10}+{b % 10} ends in {total % 10}, right."
    return f"Add {a}+{b}. {addition_columns(a, b)} So {total}. {check}"


def subtraction_analysis(a: int, b: int, effort: str) -> str:
    """How the difference is found at that effort."""
    if effort == "low":
        return "Subtraction."
    big, small = max(a, b), min(a, b)
    start = f"Subtract {a}-{b}. " + (f"{a} is less than {b}, so minus {b}-{a}. " if a < b else "")
    sign = "-" if a < b else ""
    if effort == "medium":
        if small >= 100:
            return f"{start}First {big}-{small // 100 * 100}={big - small // 100 * 100}, then minus {small % 100}."
        return f"{start}Ones {big % 10}-{small % 10}."
    check = f"Check: {(big - small) % 10}+{small % 10} ends in {big % 10}, right."
    return f"{start}{subtraction_columns(big, small)} So {sign}{big - small}. {check}"


def multiplication_analysis(a: int, b: int, effort: str) -> str:
    """How the product of a and a one-digit b is found at that effort."""
    if effort == "low":
        return "Multiplication."
    if effort == "medium":
        if a < 10:
            return f"Multiply {a}*{b}."
        return f"Multiply {a}*{b}. Ones {a % 10}*{b}={a % 10 * b}."
    steps, carry, width = [], 0, len(str(a))
    for column in range(width):
        x = a // 10**column % 10
        total = x * b + carry
        step = f"{COLUMNS[column]} {x}*{b}={x * b}"
        if column:
            step += f", {x * b}+{carry}={total}"
        carry = total // 10
        digit = total % 10 if column < width - 1 else total
        steps.append(f"{step}: {digit}" + (f" carry {carry}." if column < width - 1 else "."))
    return f"Multiply {a}*{b}. {' '.join(steps)} So {a * b}. Check: {a % 10}*{b} ends in {a * b % 10}, right."


def make_addition(rng: Random, effort: str) -> Exchange:
    """A sum of two numbers."""
    a, b = number(rng), number(rng)
    return addition(a, b, rng.choice(ADD).format(a=a, b=b), effort)


def addition(a: int, b: int, question: str, effort: str) -> Exchange:
    """The exchange of that sum."""
    return Exchange(
        question, addition_analysis(a, b, effort), f"{a} + {b} = {a + b}.", sum_key(a, b), "addition", f"= {a + b}."
    )


def make_subtraction(rng: Random, effort: str) -> Exchange:
    """A difference of two numbers, sometimes negative."""
    a, b = number(rng), number(rng)
    phrase = rng.choice(SUBTRACT)
    if a < b and (rng.random() < 0.85 or "coins" in phrase or "difference" in phrase):
        a, b = b, a
    key = f"sub:{a},{b}"
    analysis = subtraction_analysis(a, b, effort)
    return Exchange(phrase.format(a=a, b=b), analysis, f"{a} - {b} = {a - b}.", key, "subtraction", f"= {a - b}.")


def make_multiplication(rng: Random, effort: str) -> Exchange:
    """A product with a one-digit factor."""
    a = (
        rng.randint(2, 9)
        if rng.random() < 0.3
        else rng.randint(10, 99)
        if rng.random() < 0.85
        else rng.randint(100, 999)
    )
    b = rng.randint(2, 9)
    x, y = (a, b) if rng.random() < 0.7 else (b, a)
    question = rng.choice(MULTIPLY).format(a=x, b=y)
    key = f"mul:{min(a, b)},{max(a, b)}"
    return Exchange(
        question, multiplication_analysis(a, b, effort), f"{x} * {y} = {a * b}.", key, "multiplication", f"= {a * b}."
    )


def make_comparison(rng: Random, effort: str) -> Exchange:
    """Which of two numbers is larger or smaller."""
    a = number(rng)
    b = number(rng)
    if rng.random() < 0.5:
        b = int("".join(rng.sample(str(a), len(str(a)))))
    if a == b:
        b = a + rng.randint(1, 9)
    more = rng.choice(("larger", "bigger", "greater", "smaller", "less"))
    best = min(a, b) if more in ("smaller", "less") else max(a, b)
    question = rng.choice(COMPARE).format(more=more, a=a, b=b)
    if effort == "low":
        analysis = "Comparison."
    elif effort == "medium":
        analysis = f"Compare {a} with {b}."
    else:
        analysis = f"Compare {a} with {b}. {comparison_steps(a, b)} So {best} is {more}."
    return Exchange(
        question, analysis, f"{best} is {more}.", f"cmp:{min(a, b)},{max(a, b)}", "comparison", f"{best} is"
    )


def comparison_steps(a: int, b: int) -> str:
    """The comparison digit by digit, from the left."""
    left, right = str(a), str(b)
    if len(left) != len(right):
        return f"{left} has {len(left)} digits, {right} has {len(right)}."
    steps = [f"{len(left)} digits each."]
    for index, (x, y) in enumerate(zip(left, right, strict=True)):
        name = COLUMNS[len(left) - 1 - index]
        if x != y:
            steps.append(f"{name} {x} and {y}: {max(x, y)} is larger.")
            break
        steps.append(f"{name} {x} and {y}: equal.")
    return " ".join(steps)


def make_number_sort(rng: Random, effort: str) -> Exchange:
    """A short list of numbers to put in order."""
    numbers = rng.sample(range(1, 100 if rng.random() < 0.75 else 1000), rng.randint(3, 5))
    joint = rng.choice((", ", " ", ","))
    question = rng.choice(SORT).format(list=joint.join(map(str, numbers)))
    ordered = sorted(numbers)
    if effort == "low":
        analysis = "Sorting."
    elif effort == "medium":
        analysis = f"Sort {len(numbers)} numbers. Smallest {ordered[0]}, largest {ordered[-1]}."
    else:
        rest, steps = list(numbers), []
        while len(rest) > 1:
            least = min(rest)
            rest.remove(least)
            steps.append(f"Smallest {least}, left {' '.join(map(str, rest))}.")
        steps.append(f"Last {rest[0]}.")
        analysis = f"Sort {' '.join(map(str, numbers))}. {' '.join(steps)}"
    answer = ", ".join(map(str, ordered))
    return Exchange(question, analysis, f"In order: {answer}.", "sort:" + answer, "number sort", answer)
