"""Signals at chosen steps of a training in this process."""

import os
import signal


def interrupt_at(monkeypatch, module_class, steps, number=signal.SIGINT):
    """Send a signal before each of the global steps, in turn; return the list of those still to come."""
    original = module_class.training_step
    left = list(steps)

    def interrupted(self, batch, batch_idx):
        if left and self.global_step == left[0]:
            left.pop(0)
            os.kill(os.getpid(), number)
        return original(self, batch, batch_idx)

    monkeypatch.setattr(module_class, "training_step", interrupted)
    return left
