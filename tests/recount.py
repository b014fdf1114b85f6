#!/usr/bin/env python3
"""An independent recount of every aggregate, in Python's integers, fractions and sets, over hostile values from a seed.

    recount.py generate SEED                          the events, as JSON lines
    recount.py check SEED SIZE SLIDE TOP DISTINCT FILE   compares panes (JSON lines of `all_aggregates`) with the recount

SIZE and SLIDE are milliseconds, or 0 for a global window. Nothing here is shared with Pelton.
"""

import json
import random
import sys
from collections import Counter
from fractions import Fraction

START = 1767225600000  # 2026-01-01
HOUR = 3600000
LOW, HIGH = -(2**63), 2**63 - 1
EDGES = [LOW, LOW + 1, -2, -1, 0, 1, 2, 2**53, 2**53 + 1, HIGH - 1, HIGH]
NUMBERS = [0.0, -0.0, 0.1, -0.1, 1.0, 1e16, -1e16, 1e100, -1e100, 5e-324, -5e-324, 2.0**53, 1e300, -1e300, 1 / 3]
TEXTS = ["", "a", "b", "ä", "\u0000", "true", "0", "a\"b\\c", "z" * 300, "日本", "A", "aa"]


def times(dice, count):
    """Ascending enough: no event is late, but not in order."""
    return [START + dice.randrange(3 * HOUR) for _ in range(count)]


def event(key, at, **values):
    return {"k": key, "ts": at, **values}


def generate(seed):
    """Events of many keys, each a case of its own."""
    dice = random.Random(seed)
    events = []

    def case(name, count, make):
        for at in times(dice, count):
            events.append(event(name, at, **make()))

    # All equal, to each edge: among them the neutral element of every aggregate.
    for place, edge in enumerate(EDGES):
        case(f"all-n-{place}", dice.randrange(1, 6), lambda: {"n": edge})
    for place, number in enumerate(NUMBERS):
        case(f"all-x-{place}", dice.randrange(1, 6), lambda: {"x": number})
    case("one", 1, lambda: {"n": dice.choice(EDGES), "x": dice.choice(NUMBERS), "s": "only", "b": True})
    case("nothing", 4, dict)
    case("null", 3, lambda: {"n": None, "x": None, "s": None, "b": None})
    for which in range(12):
        def some():
            values = {
                "n": dice.choice(EDGES) if dice.random() < 0.7 else dice.randrange(-50, 50),
                "x": dice.choice(NUMBERS) if dice.random() < 0.7 else dice.uniform(-1e6, 1e6),
                "s": dice.choice(TEXTS),
                "b": dice.random() < 0.5,
            }
            return {name: value for name, value in values.items() if dice.random() < 0.8}
        case(f"mixed-{which}", dice.randrange(0, 60), some)
    # Ties at every place.
    case("ties", 40, lambda: {"s": dice.choice("abcdefgh"), "n": dice.randrange(4)})
    # Sums that leave 64 bits and come back.
    for which in range(4):
        ends = [HIGH] * dice.randrange(1, 9) + [LOW] * dice.randrange(1, 9)
        case(f"swing-{which}", len(ends), lambda: {"n": ends.pop(dice.randrange(len(ends)))})
    # More different values than a top-k keeps, in one slice and over several; some are frequent.
    numbers = iter(range(10**6))
    flood = lambda: {"s": f"hit{dice.randrange(5)}" if dice.random() < 0.2 else f"new{next(numbers)}"}
    for at in times(dice, 700):
        events.append(event("flood-many", at, **flood()))
    base = START + dice.randrange(HOUR)
    for _ in range(1800):
        events.append(event("flood-one", base, **flood()))
    dice.shuffle(events)
    return events


def windows(events, size, slide):
    """Per window and key its events: (end, key) to a list."""
    found = {}
    for item in events:
        if size == 0:
            ends = [HIGH]
        else:
            first = item["ts"] // slide * slide + slide
            ends = range(first, first + size, slide)
        for end in ends:
            found.setdefault((end, item["k"]), []).append(item)
    return found


def check_top(values, top, capacity, slices):
    """What is wrong with a top-k; `slices` are the values slice by slice."""
    true = Counter(values)
    bound = len(values) // capacity
    exact = all(len(set(part)) <= capacity for part in slices)
    got = [item for item, _, _ in top["got"]]
    if len(set(got)) != len(got):
        return "an item twice"
    order = [(-count, item.encode()) for item, count, _ in top["got"]]
    if order != sorted(order):
        return "wrong order"
    if exact:
        expected = sorted(true.items(), key=lambda pair: (-pair[1], pair[0].encode()))[: top["limit"]]
        if [[item, count, 0] for item, count in expected] != top["got"]:
            return f"expected {expected}"
        return None
    if len(got) != min(top["limit"], len(true)):
        return f"{len(got)} items"
    for item, count, error in top["got"]:
        if not (count - error <= true[item] <= count and 0 <= error <= bound):
            return f"`{item}` occurs {true[item]} times, told {count} less at most {error}, bound {bound}"
    least = top["got"][-1][1]
    for item, count in true.items():
        if item not in got and count > max(least, bound):
            return f"`{item}` occurs {count} times and is missing"
    return None


def check_pane(pane, events, slide, top, distinct):
    """All that is wrong with a pane."""
    column = lambda name: [item[name] for item in events if item.get(name) is not None]
    n, x, s, b = column("n"), column("x"), column("s"), ["true" if value else "false" for value in column("b")]
    total = sum(n)
    expected = {
        "last": True,
        "count": len(events),
        "sum_n": max(LOW, min(HIGH, total)) if n else None,
        "clipped": not LOW <= total <= HIGH,
        "min_n": min(n, default=None),
        "max_n": max(n, default=None),
        "min_x": min(x, default=None),
        "max_x": max(x, default=None),
        "distinct_n": min(distinct, len(set(n))),
        "distinct_x": min(distinct, len(set(x))),
        "distinct_s": min(distinct, len(set(s))),
        "distinct_b": min(distinct, len(set(b))),
    }
    wrong = [f"{name} is {pane[name]}, expected {value}" for name, value in expected.items() if pane[name] != value]
    part = lambda item: item["ts"] // slide if slide else 0
    parts = {part(item) for item in events}
    if not x or pane["sum_x"] is None:
        if x or pane["sum_x"] is not None:
            wrong.append(f"sum_x is {pane['sum_x']} of {len(x)} values")
    else:
        exact = sum(map(Fraction, x))
        unit = Fraction(1, 2**53)
        allowed = unit * abs(exact) + ((len(x) + len(parts)) * unit) ** 2 * sum(abs(Fraction(value)) for value in x)
        # Half of the smallest step that there is.
        if abs(Fraction(pane["sum_x"]) - exact) > allowed + Fraction(1, 2**1075):
            wrong.append(f"sum_x is {pane['sum_x']}, exactly {float(exact)}")
    capacity = max(1024, 8 * top)
    for name, field in (("top_n", "n"), ("top_s", "s"), ("top_b", "b")):
        text = {"n": str, "s": str, "b": lambda value: "true" if value else "false"}[field]
        slices = [
            [text(item[field]) for item in events if part(item) == one and item.get(field) is not None] for one in parts
        ]
        values = [value for one in slices for value in one]
        if problem := check_top(values, {"got": pane[name], "limit": top}, capacity, slices):
            wrong.append(f"{name} is {str(pane[name])[:300]}: {problem}")
    return wrong


def check(seed, size, slide, top, distinct, path):
    """Compares a file of panes with the recount; what differs is printed."""
    expected = windows(generate(seed), size, slide)
    with open(path, encoding="utf-8") as lines:
        panes = [json.loads(line) for line in lines]
    got = [(pane["end"], pane["key"]) for pane in panes]
    wrong = []
    if got != sorted(expected, key=lambda place: (place[0], place[1].encode())):
        wrong.append(f"{len(got)} panes, expected {len(expected)} in order of end and key")
    for pane in panes:
        place = (pane["end"], pane["key"])
        if place not in expected:
            wrong.append(f"a pane of no event: {place}")
            continue
        if pane["start"] != (place[0] - size if size else LOW):
            wrong.append(f"{place} starts at {pane['start']}")
        wrong.extend(f"{place}: {text}" for text in check_pane(pane, expected[place], slide, top, distinct))
    for text in wrong[:20]:
        print(text)
    print(f"seed {seed}: {len(panes)} panes, {len(wrong)} differences")
    return bool(wrong)


def main(arguments):
    if arguments[0] == "generate":
        for item in generate(int(arguments[1])):
            print(json.dumps(item))
        return 0
    seed, size, slide, top, distinct = map(int, arguments[1:6])
    return int(check(seed, size, slide, top, distinct, arguments[6]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
