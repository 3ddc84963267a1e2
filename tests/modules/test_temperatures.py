import torch

from wssl_pl.modules import PretextModule
from wssl_pl.modules.heads import Answers, TaskMetrics
from wssl_pl.tasks import make_tasks


def test_a_validation_keeps_its_temperatures(fit, tmp_path):
    module = PretextModule(["rotation", "masked"], width=2)
    assert module.hparams["temperatures"] is None
    trainer = fit(module)
    kept = module.hparams["temperatures"]
    assert list(kept) == ["rotation"]  # `masked` has no probabilities
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    trainer.test(module, datamodule=trainer.datamodule, verbose=False)
    assert module.hparams["temperatures"] is kept
    # A resumed run has them before its first validation.
    module = PretextModule(["rotation", "masked"], width=2)
    fit(module, resume=tmp_path / "a.ckpt", max_epochs=2, limit_val_batches=0)
    assert module.hparams["temperatures"] == kept
    assert PretextModule.load_from_checkpoint(tmp_path / "a.ckpt").hparams["temperatures"] == kept


def test_a_sanity_check_is_no_validation(fit, monkeypatch):
    module = PretextModule(["rotation"], width=2)
    fit(module, num_sanity_val_steps=1, limit_train_batches=1, check_val_every_n_epoch=2)
    assert module.hparams["temperatures"] is None


def test_old_checkpoints_have_none(tmp_path):
    module = PretextModule(["rotation"], width=2)
    settings = {name: value for name, value in module.hparams.items() if name != "temperatures"}
    checkpoint = {"stage": "pretext", "state_dict": module.state_dict(), "hyper_parameters": settings}
    torch.save(checkpoint, tmp_path / "a.ckpt")
    assert PretextModule.load_from_checkpoint(tmp_path / "a.ckpt").hparams["temperatures"] is None


def test_a_validation_s_temperatures_are_of_its_own_answers():
    tasks = make_tasks(["rotation"])
    metrics, labels = TaskMetrics(tasks), torch.arange(64) % 4
    found = []
    for right in (0.95, 0.55, 0.95):  # how often the confident head is right
        answers = torch.where(torch.arange(64) < 64 * right, labels, (labels + 1) % 4)
        outputs = {"rotation": 4.0 * torch.nn.functional.one_hot(answers, 4).float()}
        metrics.update(tasks, Answers.of(tasks, outputs, {"rotation": labels}), count=64)
        metrics.compute()
        found.append(metrics.temperatures["rotation"])
    assert found[0] == found[2] < found[1]
