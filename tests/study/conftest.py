import pytest
import yaml
from filelock import FileLock

from wssl_pl.study.definition import read_study
from wssl_pl.study.folder import StudyFolder

TINY = {
    "title": "tiny",
    "seeds": [0, 1],
    "steps": {"pretext": 12, "downstream": 10},
    "validations": 2,
    "common": {
        "data.images": "synthetic",
        "data.masks": "synthetic",
        "data.image_size": 32,
        "data.resize": 40,
        "data.batch_size": 4,
        "data.limit": 12,
        "model.width": 2,
    },
    "arms": {
        "frozen": {"pretext": {"tasks": ["saturation"]}, "paper": {"ssim": 0.9596, "psnr": 29.9}},
        "fine_tuned": {"pretext": {"tasks": ["saturation"]}, "downstream": {"freeze_layers": 0}},
        "scratch": {"pretext": "none", "downstream": {"freeze_layers": 0}, "steps": "total"},
    },
    "claims": [{"claim": "frozen beats scratch", "better": "frozen", "than": "scratch"}],
}


@pytest.fixture
def only_cluster(tmp_path_factory):
    """Held by tests that start a Ray cluster, or that look for one: `auto` finds any on this machine."""
    with FileLock(tmp_path_factory.getbasetemp().parent / "ray.lock"):
        yield


@pytest.fixture
def declare(tmp_path):
    """Writes a small study with changes at its top level and returns the file's path."""

    def write(name="tiny", **changes):
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(TINY | changes, sort_keys=False))
        return str(path)

    return write


@pytest.fixture
def study(declare, tmp_path):
    """The folder of a small study that was started and has run nothing."""
    folder = StudyFolder(tmp_path / "study")
    folder.start(read_study([declare()]))
    return folder
