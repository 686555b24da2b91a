"""What workers write at one another: a slot for the models of each edge, and counters of what was sent and read."""

from typing import Any

from subspace_jax.parallel.asap.policies import Plan


class Mailboxes:
    """Slots and counters of all edges, in this process; every counter has one writer.

    A message is complete before its counter says so: the slot holds a tuple, which is put in whole.
    """

    def __init__(self, plan: Plan, start: Any):
        """Empty boxes.

        Args:
          plan: the run.
          start: the workers' first models, which count as messages of iteration 0; None in a run of times alone.
        """
        workers = range(len(plan.weights))
        self.depth = plan.policy.depth
        self.notified: Any = [[0 for _ in workers] for _ in workers]  # [receiver][sender]: newest message there
        self.acked: Any = [[0 for _ in workers] for _ in workers]  # [receiver][sender]: newest message that was copied
        self.arrived: Any = [0 for _ in workers]  # iterations that a worker has computed and sent
        self.slots = {
            (i, j): [(0, None if start is None else start[j])] * self.depth for i, j in plan.edges()
        }  # fmt: skip

    def put(self, sender: int, receiver: int, iteration: int, model: Any) -> None:
        """Write a message into its slot, then notify."""
        self.slots[receiver, sender][iteration % self.depth] = (iteration, model)
        self.notified[receiver][sender] = iteration
        self.changed(receiver)

    def read(self, receiver: int, sender: int, iteration: int) -> tuple[int, Any]:
        """(iteration, model) of what lies in the slot of a message: with one slot an edge the newest."""
        return self.slots[receiver, sender][iteration % self.depth]

    def ack(self, receiver: int, sender: int, iteration: int) -> None:
        """Tell the sender that a message was copied."""
        self.acked[receiver][sender] = iteration
        self.changed(sender)

    def arrive(self, worker: int, iteration: int) -> None:
        """Tell everybody that a worker has sent the messages of an iteration."""
        self.arrived[worker] = iteration
        for other in range(len(self.arrived)):
            self.changed(other)

    def slowest(self) -> int:
        """Iterations that every worker has sent."""
        return int(min(self.arrived))

    def changed(self, worker: int) -> None:
        """Something happened that this worker may wait for."""
