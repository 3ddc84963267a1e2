"""Ctrl-C at chosen steps of a training in this process."""

import os
import signal


def interrupt_at(monkeypatch, module_class, steps):
    """Sends Ctrl-C before each of the global steps, in turn; returns the list of those still to come."""
    original = module_class.training_step
    left = list(steps)

    def interrupted(self, batch, batch_idx):
        if left and self.global_step == left[0]:
            left.pop(0)
            os.kill(os.getpid(), signal.SIGINT)
        return original(self, batch, batch_idx)

    monkeypatch.setattr(module_class, "training_step", interrupted)
    return left
