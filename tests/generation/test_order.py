import random
from typing import Any

from alpaca.generation.corpus import Passage
from alpaca.generation.order import Order, name_passages


def passages(*names: str) -> list[Passage]:
    return [Passage(f"{name}.txt", 0, 1, f"text {name}") for name in names]


class Journal:
    """A run that asks what an order says, and is interrupted."""

    def __init__(self) -> None:
        self.entries: list[dict[str, Any]] = []

    def run(self, names: str, *numbers: int, kind: str = "reply") -> list[str | None]:
        """Answer these requests; returns what each number is about, as a letter and a round."""
        order = Order(passages(*names), rounds=2, seed=1)
        order.follow(self.entries)
        self.entries.append({"kind": "run", "passages": order.key})
        for number in numbers:
            place, times = order.item(number) or (0, 0)
            self.entries.append({"kind": kind, "request": number, "passage": order.passages[place].key, "round": times})
        items = [order.item(number) for number in range(order.last)]
        return [names[item[0]] + str(item[1]) if item else None for item in items]


def test_what_is_asked_while_the_corpus_changes() -> None:
    journal = Journal()
    first = journal.run("abcd", 0, 1, 3)
    assert sorted(map(str, first)) == ["a0", "a1", "b0", "b1", "c0", "c1", "d0", "d1"]
    assert {str(item)[1] for item in first[:4]} == {"0"} and journal.run("abcd") == first
    gone = str(first[1])[0]
    names = "".join(n for n in "abcd" if n != gone) + "xy"
    second = journal.run(names)
    assert second[:4] == [first[0], None, None, first[3]]  # answered; its passage is gone; never answered
    left = [n + t for n in names for t in "01" if n + t not in first[:4:3]]
    assert sorted(map(str, second[4:])) == sorted(left) and str(second[4])[1] == "0"
    assert journal.run(names, 4, 6) == second == journal.run(names, 5, kind="failed") == journal.run(names)
    back = journal.run("abcdxy")
    assert back[:7] == [first[0], first[1], None, *second[3:7]]
    assert sorted(map(str, back[7:])) == sorted({n + t for n in "abcdxy" for t in "01"} - set(map(str, back[:7])))


def test_each_passage_was_asked_about_once_after_so_many() -> None:
    journal = Journal()
    journal.run("abc", 0, 1, 2, 3)
    order = Order(passages(*"abcde"), rounds=2, seed=1)
    order.follow(journal.entries)
    assert (order.once, order.last, order.lost, order.answered) == (6, 10, 0, 4)
    order = Order(passages("a"), rounds=2, seed=1)
    order.follow(journal.entries)
    assert (order.lost, order.answered) in ((2, 4), (3, 4))


def test_a_journal_with_numbers_of_passages_is_read() -> None:
    order = Order(passages(*"abc"), rounds=2, seed=1)
    shuffled = random.Random("passages 1").sample(range(3), 3)
    entries: list[dict[str, Any]] = [{"kind": "run", "passages": order.key}]
    entries += [{"kind": "reply", "request": n, "passage": shuffled[n % 3]} for n in range(5)]
    early = [dict(entry) for entry in entries]
    said = name_passages(entries, order)
    assert [order.passages[order.item(n)[0]].key for n in range(5)] == [e["passage"] for e in entries[1:]]  # type: ignore[index]
    assert said is not None and [e["round"] for e in entries[1:]] == [0, 0, 0, 1, 1]
    changed = Order(passages(*"bcd"), rounds=2, seed=1)
    assert name_passages([dict(entry) for entry in early], changed) is None
    later = [*early, said]
    assert name_passages(later, changed) is None and later[1:6] == entries[1:6]
