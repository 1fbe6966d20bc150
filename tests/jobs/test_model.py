"""In every state that the submission protocol can reach, nothing is lost and nothing paid twice."""

from collections import deque

import pytest

from tests.jobs.model import ENDED, LIVE, OPEN, State, canonical
from tests.jobs.protocol import Protocol, Refused

UNFAIR = ("dies", "delete", "cancel", "retry")


class Walk:
    """All reachable states, breadth first, with the shortest way to each."""

    def __init__(self, protocol: Protocol) -> None:
        start = State()
        self.came: dict[State, tuple[State, str] | None] = {start: None}
        self.edges: dict[State, list[State]] = {}
        self.wrong: tuple[str, State, str] | None = None
        todo = deque([start])
        while todo and self.wrong is None:
            state = todo.popleft()
            fair = self.edges.setdefault(state, [])
            try:
                for label, reached in protocol.steps(state):
                    after = canonical(reached)
                    problem = wrong_step(label, state, reached) or wrong_state(after, protocol)
                    if after not in self.came:
                        self.came[after] = (state, label)
                        todo.append(after)
                    if problem:
                        self.wrong = (problem, state, label)
                        break
                    if not label.endswith(("dies", "before the cancel")) and label not in UNFAIR:
                        fair.append(after)
            except Refused as refusal:
                self.wrong = (f"the table refused a move from {refusal}", state, "write")

    def way(self, state: State) -> list[str]:
        """What happened until this state."""
        steps: list[str] = []
        while (before := self.came[state]) is not None:
            steps.append(before[1])
            state = before[0]
        return steps[::-1]

    def problem(self) -> str:
        """What is wrong and how it came about; empty when all is right."""
        if self.wrong:
            what, state, label = self.wrong
            return "\n  ".join([what, *self.way(state), label])
        stuck = self._stuck()
        return "\n  ".join(["it never comes to rest", *self.way(stuck)]) if stuck else ""

    def _stuck(self) -> State | None:
        """A state from which no fair way leads to an ended row without live runs."""
        back: dict[State, list[State]] = {}
        for state, following in self.edges.items():
            for after in following:
                back.setdefault(after, []).append(state)
        good = [state for state in self.came if at_rest(state)]
        reached = set(good)
        while good:
            for before in back.get(good.pop(), ()):
                if before not in reached:
                    reached.add(before)
                    good.append(before)
        return next((state for state in self.came if state not in reached), None)


def at_rest(state: State) -> bool:
    ended = state.row is None or state.row.status in ENDED
    return ended and not state.states and not any(sub.run in LIVE for sub in state.subs)


def wrong_step(label: str, before: State, after: State) -> str | None:
    """What no single step may do."""
    old, new = before.row, after.row
    if old is None or new is None or old.status == new.status:
        return None
    if old.status in ENDED and label != "retry":
        return f"a {old.status} row became {new.status}"
    present = [sub for sub in after.subs if sub.try_number == new.try_number]
    if new.status in ("failed", "cancelled") and any(sub.state in OPEN for sub in present):
        return f"the row became {new.status} with an open submission"
    return None


def wrong_state(state: State, protocol: Protocol) -> str | None:
    """What must hold everywhere."""
    row = state.row
    for sub in state.subs:
        if sub.posts > 1:
            return "one submission was sent twice"
        if sub.run in LIVE and not (sub.state in OPEN or (sub.state == "expired" and sub.doubted)):
            return f"a live run that nobody watches: its submission is {sub.state}"
    if row is None:
        return None
    present = [sub for sub in state.subs if sub.try_number == row.try_number]
    if row.status == "completed" and not any(sub.video for sub in present):
        return "completed without a video"
    counted = sum(sub.state != "refused" for sub in present)
    if counted > protocol.most:
        return f"{counted} submissions were made, {protocol.most} are permitted"
    runs = sum(sub.run is not None for sub in present)
    doubted = sum(sub.doubted for sub in present)
    ended = sum(sub.state in ("failed", "cancelled", "lost") for sub in present)
    if runs - 1 > doubted + ended:
        return f"{runs} runs, of which only {doubted + ended} are explained"
    if sum(sub.run in LIVE for sub in present) > 1 + doubted:
        return "two live runs without an unknown submission"
    return None


@pytest.mark.parametrize(
    ("most", "tries", "fine"),
    [
        pytest.param(1, 1, True, id="one submission, every fault"),
        pytest.param(2, 1, False, id="two submissions"),
        pytest.param(1, 2, False, id="a retry by people"),
    ],
)
def test_every_reachable_state_is_right_and_comes_to_rest(
    most: int, tries: int, fine: bool
) -> None:
    """Through every interleaving; `fine` splits a look from its write and lets time pass."""
    walk = Walk(Protocol(most=most, tries=tries, fine=fine))
    assert walk.problem() == ""
    assert len(walk.came) > 5_000


@pytest.mark.parametrize(
    ("fault", "most", "found"),
    [
        ("unfenced write", 1, "a cancelled row became"),
        ("unfenced begin", 2, "are explained"),
        ("claims end on what they were", 1, "row became submitted"),
        ("unknown is sent again", 1, "one submission was sent twice"),
        ("cancelled at once", 1, "the row became cancelled with an open submission"),
        ("5xx taken for a refusal", 1, "a live run that nobody watches"),
        ("lost senders are forgotten", 2, "it never comes to rest"),
        ("expired leases are forgotten", 1, "it never comes to rest"),
    ],
)
def test_a_planted_fault_is_found_with_the_way_to_it(fault: str, most: int, found: str) -> None:
    """The model would notice if the code or the SQL made one of these mistakes."""
    fine = most == 1
    problem = Walk(Protocol(most=most, tries=1, fine=fine, faults=frozenset({fault}))).problem()
    what, *way = problem.splitlines()
    assert found in what
    assert 1 < len(way) < 25
