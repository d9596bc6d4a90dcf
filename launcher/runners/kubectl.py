"""The program that Kubernetes is asked by, and which cluster it asks."""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass

from launcher.runners.program import Program, ProgramError

# What kubectl writes for its makers, and an advice that would let a server drop what it does not know.
_LOG = re.compile(r"[EWIF]\d{4} \d\d:\d\d:\d\d")
_ADVICE = re.compile(r"; if you choose to ignore these errors, turn validation off with --validate=false")


class KubernetesError(ProgramError):
    """Kubernetes is not there, or does not do what it was asked for."""


def complaint(lines: list[str]) -> str:
    """What kubectl says of a failure: each thing once."""
    said = dict.fromkeys(_ADVICE.sub("", line.strip()) for line in lines if not _LOG.match(line))
    return "; ".join(filter(None, said)).rstrip(".?")


KUBECTL = Program(
    KubernetesError, "kubectl is not installed here, and it is what Kubernetes is asked by.", complaint=complaint
)


@dataclass(frozen=True)
class Cluster:
    """Where a job is, whatever kubectl is told to use by the time that somebody asks for it.

    Attributes:
        context: of kubectl's configuration; empty where it has none, as in a pod.
        namespace: empty for that of the context.
    """

    context: str = ""
    namespace: str = ""

    @staticmethod
    def current(namespace: str) -> Cluster:
        """The one that kubectl uses now.

        Args:
            namespace: that a job names; empty where it names none.
        """
        context = ""
        with suppress(KubernetesError):  # it has none, and says so by failing
            context = KUBECTL.call(["kubectl", "config", "current-context"]).strip()
        if context and not namespace:
            asked = ["kubectl", "config", "view", "--minify", "--output=jsonpath={..namespace}"]
            namespace = KUBECTL.call(asked).strip() or "default"
        return Cluster(context, namespace)

    @property
    def flags(self) -> list[str]:
        """What tells kubectl so."""
        context = [f"--context={self.context}"] if self.context else []
        return [*context, *([f"--namespace={self.namespace}"] if self.namespace else [])]
