"""Judges every input of every node: by the node's contract, and by what the worker makes of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from worker.workflow.contracts import Contracts, InputContract, NodeContract, is_number
from worker.workflow.graph import Graph, Link, Node, as_link, literal, shown
from worker.workflow.inputs import EDITOR_WIDGETS, INPUTS
from worker.workflow.names import CONSTANTS
from worker.workflow.treatment import Compared, Free, Linked, PerJob, Pinned, Treatment


@dataclass(frozen=True, slots=True)
class Deviations:
    """What the operator permits: "Class.input", "id.input" or "class:Class"."""

    listed: frozenset[str]

    @property
    def foreign(self) -> frozenset[str]:
        """Classes that have no contract here, but that the endpoint knows."""
        prefix = "class:"
        return frozenset(
            entry.removeprefix(prefix) for entry in self.listed if entry.startswith(prefix)
        )

    def permit(self, node: Node, name: str) -> str | None:
        """Return the entry that permits another value for this input; None if there is none."""
        names = (f"{node.kind}.{name}", f"{node.id}.{name}")
        return next((entry for entry in names if entry in self.listed), None)


@dataclass(frozen=True, slots=True)
class Finding:
    """A rule that the graph breaks; `permitted_by` is the deviation that allows it."""

    text: str
    why: str = ""
    permitted_by: str | None = None

    def __str__(self) -> str:
        """The sentence for the operator."""
        return f"{self.text} ({self.why})." if self.why else f"{self.text}."


@dataclass(frozen=True, slots=True)
class Guard:
    """One graph, the contracts of its nodes, and the deviations that the operator permits."""

    graph: Graph
    contracts: Contracts
    allowed: Deviations

    def findings(self) -> Iterator[Finding]:
        """Yield a finding for each input that breaks a rule, and for each unknown class."""
        for node in self.graph.values():
            contract = self.contracts.get(node.kind)
            if contract is not None:
                for name in dict.fromkeys((*contract.inputs, *node.inputs)):
                    yield from self._input(node, name, contract)
                continue
            if node.kind not in self.allowed.foreign:
                yield Finding(
                    f"{node.label} is of a class that this service does not know; if the "
                    f"endpoint has it, list the deviation class:{node.kind}"
                )
            for name in node.inputs:
                link = node.link(name)
                if link is not None and link.node not in self.graph:
                    yield self._broken(node, name, "a node of the workflow", firm=True)

    def _input(self, node: Node, name: str, contract: NodeContract) -> Iterator[Finding]:
        accepted = contract.inputs.get(name)
        if accepted is None:
            if name not in EDITOR_WIDGETS.get(node.kind, ()) or node.link(name) is not None:
                text = f"{node.label} has no input {name[:60]} that this service knows: found "
                found = f"{shown(node.inputs[name])}, wanted none"
                yield Finding(text + found, permitted_by=self.allowed.permit(node, name))
            return
        treatment = INPUTS[node.kind][name]
        if name not in node.inputs:
            yield from self._missing(node, name, accepted, treatment, name in contract.required)
            return
        against = self._against_contract(node, name, accepted)
        if against:
            wanted = str(accepted)
            if accepted.choices and isinstance(treatment, Pinned):
                # Of a long list of choices, only the pinned one would pass.
                wanted = treatment.wanted
            yield self._broken(node, name, wanted, found=against, firm=True)
        yield from self._treated(node, name, treatment, typed=against is None)

    def _missing(
        self, node: Node, name: str, accepted: InputContract, treatment: Treatment, required: bool
    ) -> Iterator[Finding]:
        """Yield a finding if the node would fail without the input, or use another value."""
        rule = treatment.template if isinstance(treatment, PerJob) else treatment
        wanted, why, firm = str(accepted), "", True
        match rule:
            case Pinned() if required or not rule.may_lack:
                wanted, why, firm = rule.wanted, rule.why, rule.firm or required
            case Linked(needed=True):
                wanted, why, firm = self._named(rule), rule.why, required
            case Free(needed=True):
                why = "the node has no default for it"
            case _ if not required:
                return
        yield self._broken(node, name, wanted, why, found="nothing", firm=firm)

    def _against_contract(self, node: Node, name: str, accepted: InputContract) -> str | None:
        """Return what was found if the node would not take it."""
        link = node.link(name)
        if link is None:
            value = node.inputs[name]
            return None if accepted.accepts(value) else shown(value)
        source = self.graph.get(link.node)
        contract = self.contracts.get(source.kind) if source else None
        if source is None or contract is None:
            return None if source else self._linked_to(link)
        if not 0 <= link.output < len(contract.outputs):
            return f"{self._linked_to(link)}, which has no output {link.output}"
        given = contract.outputs[link.output]
        if given not in accepted.types:
            return f"{self._linked_to(link)}, which is {given}"
        value = literal(self.graph, node, name)
        if as_link(value) is None and not accepted.accepts(value):
            return f"{shown(value)} in {source.label}"
        return None

    def _treated(
        self, node: Node, name: str, treatment: Treatment, *, typed: bool
    ) -> Iterator[Finding]:
        match treatment:
            case PerJob(template=Pinned() as rule) | (Pinned() as rule):
                yield from self._pinned(node, name, rule, typed=typed)
            case Linked() if typed:
                source = self._source(node, name)
                if source is not None and source not in treatment.sources:
                    yield self._broken(node, name, self._named(treatment), treatment.why)
            case Free() | Compared() if typed:
                source = self._source(node, name)
                if source is not None and source[0] not in CONSTANTS:
                    yield self._broken(node, name, "a value of its own, or a constant")
                elif isinstance(treatment, Compared) and treatment.above:
                    yield from self._compared(node, name, treatment.other)

    def _pinned(self, node: Node, name: str, rule: Pinned, *, typed: bool) -> Iterator[Finding]:
        found = literal(self.graph, node, name)
        limit = rule.limit
        if limit is not None and as_link(found) is None and not limit.holds(found):
            yield self._broken(node, name, limit.wanted, limit.why, firm=True)
        elif typed and not rule.holds(found):
            yield self._broken(node, name, rule.wanted, rule.why, firm=rule.firm)

    def _compared(self, node: Node, name: str, other: str) -> Iterator[Finding]:
        found, least = (literal(self.graph, node, key) for key in (name, other))
        if is_number(found) and is_number(least) and found <= least:
            wanted = f"more than {other} ({least})"
            yield self._broken(node, name, wanted, "ComfyUI refuses it", firm=True)

    def _source(self, node: Node, name: str) -> tuple[str, int] | None:
        """Return class and output that the input is linked to; None if no contract tells them."""
        link = node.link(name)
        source = self.graph.get(link.node) if link else None
        if link is None or source is None or source.kind not in self.contracts:
            return None
        return source.kind, link.output

    def _named(self, rule: Linked) -> str:
        """Return the outputs that an input may be linked to, for messages."""
        names = [
            f"output {number} ({self.contracts[kind].output_names[number]}) of {kind}"
            for kind, number in rule.sources
            if kind in self.contracts
        ]
        return " or ".join(names) or "no link"

    def _found(self, node: Node, name: str) -> str:
        """Return what the input holds, for messages; a constant is read through."""
        value = literal(self.graph, node, name)
        link = as_link(value)
        return self._linked_to(link) if link else shown(value)

    def _linked_to(self, link: Link) -> str:
        source = self.graph.get(link.node)
        if source is None:
            return f"a link to node {link.node[:40]}, which does not exist"
        contract = self.contracts.get(source.kind)
        known = contract is not None and 0 <= link.output < len(contract.outputs)
        name = f" ({contract.output_names[link.output]})" if contract and known else ""
        return f"output {link.output}{name} of {source.label}"

    def _broken(
        self,
        node: Node,
        name: str,
        wanted: str,
        why: str = "",
        *,
        found: str | None = None,
        firm: bool = False,
    ) -> Finding:
        text = f"{node.label}, input {name}: found {found or self._found(node, name)}, wanted "
        permitted = None if firm else self.allowed.permit(node, name)
        return Finding(text + wanted, why, permitted)
