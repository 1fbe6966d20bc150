"""The submission protocol, step by step, around the real decide().

One row, two workers, RunPod and people. Each call of a SQL function is one atomic step: claim and
begin with their own conditions, and one fenced write for whatever decide() says. Between any two
steps a worker may die, a lease may end, a message may arrive. test_model.py walks through it all.
"""

from __future__ import annotations

from collections.abc import Iterator

from tests.jobs.model import ENDED, LIVE, OPEN, Hand, Look, Row, State, Sub, judge
from tests.migrations import moves

MOVES = moves()


class Refused(Exception):
    """The table's own guard refused a write that the worker thought right."""


class Protocol:
    """Every step that may follow a state; `faults` are mistakes planted to see them found."""

    def __init__(
        self, *, most: int, tries: int, fine: bool = False, faults: frozenset[str] = frozenset()
    ) -> None:
        self.most, self.tries, self.fine, self.faults = most, tries, fine, faults

    def steps(self, state: State) -> Iterator[tuple[str, State]]:
        """(what happens, the state after it)."""
        yield from self._people(state)
        yield from self._runpod(state)
        for worker in range(len(state.hands)):
            yield from self._worker(state, worker)
        row = state.row
        if row and row.status == "preparing" and row.lease:
            yield "lease ends", state.with_row(lease=False)
        yield from self._sweep(state)
        yield from self._looks(state)

    def _people(self, state: State) -> Iterator[tuple[str, State]]:
        row = state.row
        if row is None:
            return
        if self.fine:
            yield "delete", state._replace(row=None)
        if row.status not in ENDED and not row.cancel:
            idle = row.owner is None and not state.states
            if idle or "cancelled at once" in self.faults:
                yield "cancel", state.with_row(status="cancelled", cancel=True)
            else:
                yield "cancel", state.with_row(cancel=True)
        retriable = row.status in ("failed", "cancelled") and not state.states
        if retriable and row.try_number < self.tries:
            fresh = Row(attempt=row.attempt, try_number=row.try_number + 1)
            yield "retry", state._replace(row=fresh)

    def _runpod(self, state: State) -> Iterator[tuple[str, State]]:
        posting = {hand.attempt for hand in state.hands if hand.stage == "begun"}
        for sub in state.subs:
            n = sub.attempt
            if sub.run == "queued":
                yield f"run {n} starts", state.with_sub(n, run="running")
            if sub.run == "running":
                yield f"run {n} completes", state.with_sub(n, run="done")
                yield f"run {n} fails", state.with_sub(n, run="failed")
            if sub.run == "done" and self.fine:
                yield f"result {n} is forgotten", state.with_sub(n, run="forgotten")
            doubtful = sub.state in OPEN or sub.run in LIVE
            if self.fine and doubtful and not sub.over and n not in posting:
                run = "dead" if sub.run in LIVE else sub.run
                yield f"ttl {n} passes", state.with_sub(n, over=True, run=run)

    def _worker(self, state: State, worker: int) -> Iterator[tuple[str, State]]:
        hand, row, who = state.hands[worker], state.row, f"worker {worker}"
        n = hand.attempt
        idle = state.with_hand(worker)
        if hand.stage == "idle":
            if row and row.status == "queued" and not state.states:
                claimed = state.with_row(
                    status="preparing", attempt=row.attempt + 1, owner=worker, lease=True
                )
                yield f"{who} claims", claimed.with_hand(worker, Hand("preparing", row.attempt + 1))
            return
        yield f"{who} dies", idle
        if hand.stage == "preparing":
            for end in ("released", "rejected"):
                yield from self._apply(idle, Look(n, end, row, idle.written), f"{who}:")
            if self._may_begin(state, worker, n):
                assert row is not None
                begun = state.with_row(lease=True)
                begun = begun._replace(subs=(*begun.subs, Sub(n, row.try_number)))
                yield f"{who} begins {n}", begun.with_hand(worker, Hand("begun", n))
        elif hand.stage == "begun":
            sub = state.sub(n)
            assert sub is not None
            sent = state.with_sub(n, run="queued", posts=sub.posts + 1)
            yield f"{who} posts {n}: accepted", sent.with_hand(worker, Hand("accepted", n))
            lost = "refused" if "5xx taken for a refusal" in self.faults else "unknown"
            yield f"{who} posts {n}: answer lost", sent.with_hand(worker, Hand(lost, n))
            yield f"{who} posts {n}: not taken", state.with_hand(worker, Hand("unknown", n))
            yield f"{who} posts {n}: refused", state.with_hand(worker, Hand("refused", n))
        else:
            if hand.stage == "unknown" and "unknown is sent again" in self.faults:
                yield f"{who} sends {n} again", state.with_hand(worker, Hand("begun", n))
            seen = Look(n, hand.stage, row, idle.written)
            if "claims end on what they were" in self.faults and row is not None:
                # The case as it was when the submission began.
                began = row._replace(status="preparing", attempt=n, owner=worker, lease=True,
                                     cancel=False, ending=None)  # fmt: skip
                seen = seen._replace(row=began)
            yield from self._apply(idle, seen, f"{who}:")

    def _may_begin(self, state: State, worker: int, n: int) -> bool:
        row = state.row
        made = [
            sub for sub in state.subs
            if row and sub.try_number == row.try_number and sub.state != "refused"
        ]  # fmt: skip
        if "unfenced begin" in self.faults:
            return row is not None and len(made) < self.most and state.sub(n) is None
        return bool(
            row and row.status == "preparing" and row.attempt == n and row.owner == worker
            and row.lease and not row.cancel and len(made) < self.most and not state.states
        )  # fmt: skip

    def _sweep(self, state: State) -> Iterator[tuple[str, State]]:
        """What stranded_video_jobs_v1 finds is reviewed."""
        row = state.row
        expired = row is not None and row.status == "preparing" and row.owner is not None
        expired = expired and row is not None and not row.lease
        senders = any(
            sub.state == "submitting"
            and not (row and row.owner is not None and row.attempt == sub.attempt)
            for sub in state.subs
        )
        if "lost senders are forgotten" in self.faults:
            senders = False
        if "expired leases are forgotten" in self.faults:
            expired = False
        if expired or senders:
            yield from self._apply(state, Look(0, "stranded", row, state.written), "sweep:")

    def _looks(self, state: State) -> Iterator[tuple[str, State]]:
        if (look := state.look) is not None:
            yield "the looker dies", state._replace(look=None)
            yield from self._apply(state._replace(look=None), look, "writes")
            return
        for sub in state.subs:
            n, noticed = sub.attempt, state
            seen: list[str] = []
            if sub.state in LIVE:
                seen += self._status(sub)
            elif sub.state == "unknown":
                seen.append("waited")
            for what in seen:
                look = Look(n, what, state.row, state.written)
                if self.fine:
                    yield f"poll sees {n} {what}", state._replace(look=look)
                yield from self._apply(state, look, "poll:")
            if sub.run in ("done", "failed", "cancelled", "forgotten"):
                own_try = state.row is not None and state.row.try_number == sub.try_number
                if sub.state in OPEN or own_try:
                    if not sub.known:
                        adopt = Look(n, "accepted", state.row, state.written)
                        *_, (_, noticed) = self._apply(state, adopt, "webhook adopts")
                    body = "done" if sub.run == "forgotten" else str(sub.run)
                    look = Look(n, body, noticed.row, noticed.written)
                    if self.fine:
                        yield f"webhook of {n}: {body}", noticed._replace(look=look)
                    yield from self._apply(noticed, look, "webhook:")

    def _status(self, sub: Sub) -> list[str]:
        run = str(sub.run)
        if run == "queued":
            return ["queued", "slow"] if self.fine else ["queued"]
        return ["gone"] if run in ("dead", "forgotten") else [run]

    def _apply(self, state: State, look: Look, how: str) -> Iterator[tuple[str, State]]:
        """Decide on the case that was looked at, and write it: write_video_job_changes_v1."""
        # What changed since makes the write not take; it is decided anew on what is there.
        row, subs = look.row, look.subs
        same = row == state.row and state._replace(subs=subs).states == state.states
        unfenced = self.faults & {"unfenced write", "claims end on what they were"}
        if not same and not unfenced:
            row, subs = state.row, state.written
        out = judge(row, subs, look.attempt, look.seen, self.most)
        after = state
        for n, values in out.subs:
            new = dict(values)
            sub = after.sub(n)
            if sub is None:
                continue
            state_now = str(new.get("state", sub.state))
            after = after.with_sub(
                n,
                state=state_now,
                known=sub.known or "runpod_job_id" in new,
                video=sub.video or bool(new.get("video_url")),
                code=new.get("error_code", sub.code),
                doubted=sub.doubted or state_now in ("lost", "unknown"),
            )
        if out.row and after.row is not None:
            new = dict(out.row)
            status = str(new.get("status", after.row.status))
            legal = status == after.row.status or (after.row.status, status) in MOVES
            if not legal and not unfenced:
                raise Refused(f"{after.row.status} to {status}")
            released = {"owner": None, "lease": False} if "lease_owner" in new else {}
            ending = new.get("ending_code", after.row.ending)
            after = after.with_row(status=status, ending=ending, **released)
        label = f"{how} {look.attempt} {look.seen}"
        if out.cancel:
            yield f"{label}, dies before the cancel", after
        yield label, self._cancel(after, out.cancel)

    def _cancel(self, state: State, attempts: tuple[int, ...]) -> State:
        for n in attempts:
            sub = state.sub(n)
            if sub and sub.run in LIVE:
                state = state.with_sub(n, run="cancelled")
        return state
