"""RESULTS.md: the table, with what it says and where it was measured."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from textwrap import dedent

from benchmarks.machine import this_machine
from benchmarks.network.case import CARRIED, FRAME, NAMES, Case, Link, table


def results_page(links: Sequence[Link], command: str) -> str:
    """The page.

    Args:
        links: what was measured.
        command: how to measure it again.
    """
    case = links[0].cases[0]
    head = f"""\
        # What a slow link costs

        `{command}`, on {this_machine()}, {date.today():%d %B %Y}.

        Seconds per update on two hosts with one gloo rank each: network namespaces on one machine, whose links send
        no faster than they are called (`tc` with a token bucket). The model is a perceptron with {_parameters(case)}
        parameters, so that an update reduces {case.size / 1e6:.1f} MB of gradients; 8 samples per micro-step, K
        micro-steps per update and rank.

        *Launched* is `launcher.train.loop` as a user gets it, which reduces gradients once per update; *without
        no_sync* is plain DDP that reduces them after each micro-step; *computing* is the same work with no network in
        it, on both hosts at once. *Bytes / bandwidth* is what the gradients of one update take at the full rate of
        the link, in frames of {FRAME:,} bytes that carry {CARRIED:,}. Their *sum* is what computing and then sending
        takes, their *max* what is left to win by doing both at the same time.

        The loops run in turn in the same processes, {len(case.rounds)} times each, with the variables of C's allocator
        that a launch sets. An update takes as long as on the slower rank, and times are medians over the updates, and
        then over the rounds. A ratio belongs to one round: the median, the smallest, the largest.

        """
    return dedent(head) + table(links) + "\n\n" + "".join(map(_sentence, links))


def _sentence(link: Link) -> str:
    case = link.cases[0]
    share = case.wire / link.alone
    return (
        f"On {NAMES[case.link]} one all-reduce of the gradients takes {link.alone:.3f} s with nothing else to do "
        f"({share:.0%} of the rate): as long as the computing of K = {link.hidden:.0f} micro-steps.\n"
    )


def _parameters(case: Case) -> str:
    return f"{case.size // 4:,}"
