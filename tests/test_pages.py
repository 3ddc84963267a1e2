"""The commands and the Python examples of the README and of `docs/` run, at small sizes.

Every line of a shell block has to be one that `Page` knows: a new kind of command needs a rule here. Blocks without a
language are shell blocks; give output and file trees the language `text`. Of a script that begins with `#!`, and of
YAML, our commands are run, and the rest is read by bash or as YAML.
"""

import ast
import configparser
import importlib
import itertools
import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from tests.web.network import write_package
from wssl_pl.cli import main

ROOT = Path(__file__).parents[1]
PAGES = ["README.md", *sorted(f"docs/{path.name}" for path in ROOT.joinpath("docs").glob("*.md"))]
SHELL, OTHER = {"", "bash", "sh"}, {"python", "text", "yaml", "json", "html"}
LAUNCHERS = {"srun", "torchrun"}
OURS = r"(\b(srun|torchrun)\b.*)?(\bwssl|\bpython train\.py|\btrain\.py) .*"  # a command of ours in a script
DATA = {
    "data.image_size": "32",
    "data.resize": "36",
    "data.batch_size": "4",
    "data.limit": "8",
    "data.num_workers": "0",
}
TRAINER = {"trainer.max_epochs": "1", "trainer.accelerator": "cpu", "trainer.enable_progress_bar": "false"}
# Several processes or nodes, and loggers that are not installed: the real parser reads such a line, nothing is trained.
ONLY_PARSED = re.compile(r"trainer\.(devices|num_nodes|strategy)=|=(Wandb|MLFlow|Comet|Neptune)Logger")


def blocks(text):
    """Return the code blocks of a page as (language, the text before it, code)."""
    found = re.finditer(r"^```(\w*)\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)
    return [(match[1], text[: match.start()].rstrip().rpartition("\n\n")[2], match[2]) for match in found]


def commands(code):
    """Return the lines of a shell block without comments, with continued lines in one."""
    lines = [re.sub(r"(^|\s)#.*$", "", line) for line in code.replace("\\\n", " ").splitlines()]
    return [line.strip() for line in lines if line.strip()]


def texts(value):
    """Yield the lines of the strings in nested values; a list of strings is a command line."""
    if isinstance(value, str):
        yield from value.replace("\\\n", " ").splitlines()
    elif isinstance(value, list) and all(isinstance(word, str) for word in value):
        yield shlex.join(value)
    else:
        for part in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
            yield from texts(part)


def photo(seed, side=48):
    """Return a small smooth image, a different one for each seed."""
    low = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), np.uint8)
    return Image.fromarray(low).resize((side, side), Image.Resampling.BICUBIC)


def hole(seed, side=48):
    """Return where the hole of a mask is: a rectangle of about 40 %."""
    mask = np.zeros((side, side), bool)
    top = seed % 8
    mask[top : top + 31, 5:35] = True
    return mask


@pytest.fixture(scope="session")
def template(tmp_path_factory):
    """A folder with everything that the pages take for granted: data, photos, and a trained model of both stages."""
    folder = tmp_path_factory.mktemp("pages")
    for start, (split, count) in enumerate({"train": 8, "val": 4, "test": 8}.items()):
        for number in range(count):
            images, masks = folder / "images" / split, folder / "masks_of_training" / split
            images.mkdir(parents=True, exist_ok=True)
            photo(100 * start + number).save(images / f"{number:05d}.png")
            if split != "val":
                masks.mkdir(parents=True, exist_ok=True)
                Image.fromarray(~hole(number)).save(masks / f"{number:05d}_{split}.png")
    for name in ("photos", "masks"):
        (folder / name).mkdir()
    for number in range(2):
        photo(number).save(folder / "photos" / f"{number}.png")
        Image.fromarray(hole(number)).save(folder / "masks" / f"{number}.png")
    image = photo(0)
    image.save(folder / "photo.png")
    image.save(folder / "photo.jpg")
    Image.fromarray(hole(0)).save(folder / "mask.png")
    painted, cut_out = np.array(image), np.array(image.convert("RGBA"))
    painted[hole(0)], cut_out[hole(0), 3] = (255, 0, 255), 0
    Image.fromarray(painted).save(folder / "painted.png")
    Image.fromarray(cut_out).save(folder / "cut_out.png")
    small = [f"--{key}={value}" for key, value in (DATA | TRAINER).items()]
    pretext, downstream = folder / "runs/pretext/example", folder / "runs/downstream/example"
    main(["stage=pretext", "tasks=rotation", "--model.width=4", *small, f"--run.dir={pretext}"])
    main(["stage=downstream", f"ckpt={pretext}/best.ckpt", *small, f"--run.dir={downstream}"])
    restoring = torch.load(downstream / "best.ckpt", weights_only=True)
    restoring["hyper_parameters"]["restore"] = ["saturation"]  # it says so
    torch.save(restoring, folder / "restoring.ckpt")
    return folder


class Page:
    """A page whose blocks run one after the other in a folder of their own."""

    def __init__(self, monkeypatch):
        self.monkeypatch = monkeypatch
        extras = configparser.ConfigParser()
        extras.read(ROOT / "setup.cfg")
        self.extras = set(extras["options.extras_require"])

    def run(self, text):
        """Run every block of a page."""
        for language, before, code in blocks(text):
            if language == "python":
                self.python(before, code)
            elif language == "yaml":
                for line in itertools.chain.from_iterable(map(texts, yaml.safe_load_all(code))):
                    if ours := re.search(OURS, line):
                        self.checked(ours[0])
            elif code.startswith("#!"):
                subprocess.run(["bash", "-n"], input=code, text=True, check=True)
                for line in commands(code):
                    if ours := re.search(OURS, line):
                        self.checked(ours[0].rstrip("& "))
            elif language in SHELL:
                if "curl -s" not in code:  # tests/app/test_page.py runs that block, with a server
                    for line in commands(code):
                        self.checked(line)
            else:
                assert language in OTHER, f"a block of the unknown language {language!r}"

    def checked(self, line):
        """Run a command, and name it where it fails."""
        try:
            self.command(line)
        except (Exception, SystemExit) as error:
            raise AssertionError(f"{line}: {error!r}") from error

    def python(self, before, code):
        """Run a Python example; only look up its imports where it needs a server or a real data set."""
        if saved := re.search(r"Save this as `(\w+\.py)`", before):
            Path(saved[1]).write_text(code)
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("wssl_pl"):
                for alias in node.names:
                    assert hasattr(importlib.import_module(node.module), alias.name), f"{node.module}.{alias.name}"
        if not saved and not re.search(
            r"gradio_client|^from lightning|^import lightning|def test_", code, re.MULTILINE
        ):
            arrays = {"images": np.zeros((1, 3, 40, 40), np.float32), "masks": np.ones((1, 1, 40, 40), np.float32)}
            exec(code, {"image": photo(0), "photo": photo(0), "mask": Image.fromarray(hole(0)), **arrays})

    def command(self, line):
        """Run one line of a shell block."""
        program, *words = [word for word in shlex.split(line) if not word.startswith("WSSL_WEIGHTS=")]
        if program in LAUNCHERS:
            if program == "torchrun":
                from torch.distributed.run import get_args_parser

                assert Path(get_args_parser().parse_args(words).training_script).name == "train.py"
            self.wssl(words[words.index("train.py") + 1 :], only_parsed=True)
        elif program == "wssl" or (program == "python" and words[0] == "train.py"):
            self.wssl(words[program == "python" :])
        elif program == "pip":
            assert words[0] == "install", "pip does something else than install"
            for extra in re.findall(r"wssl-pl\[([\w,]+)\]", line):
                assert set(extra.split(",")) <= self.extras, f"setup.cfg has no extra {extra}"
        elif program == "ray":
            assert words[0] in {"start", "status", "stop"}, "ray has no such command"
        elif program in {"git", "tensorboard"} or (program, *words[:3]) == ("python", "-m", "http.server"):
            pass
        elif program == "python" and words[0].startswith("benchmarks/"):
            assert ROOT.joinpath(words[0]).is_file(), "no such program"  # tests/benchmarks runs them
        elif program == "make":
            assert re.search(rf"^{words[0]}:", ROOT.joinpath("Makefile").read_text(), re.MULTILINE), "no such target"
        else:
            raise AssertionError("a command that this test does not know how to run: add a rule")

    def wssl(self, words, only_parsed=False):
        """Run `wssl` with these words, made small."""
        words = [self.existing(words, word) for word in words if word != "..."]
        command = words[0] if words and re.fullmatch(r"[a-z]+", words[0]) else "train"
        only_parsed = only_parsed or any(ONLY_PARSED.search(word) for word in words)
        if command == "train":
            if not any(re.match(r"(--)?(stage|resume|config)=", word) for word in words):
                words = ["stage=pretext", "tasks=rotation", *words]
            # That of the pretext checkpoint, or of an encoder by class path.
            own_width = "stage=downstream" in words or any(word.startswith("--model.encoder=") for word in words)
            small = DATA | TRAINER | ({} if own_width else {"model.width": "4"})
            if "stage=pconv" in words:  # without weights, which are not here
                small |= {"model.downs": "5", "model.perceptual": "0", "model.style": "0"}
            if any(re.match(r"resume=(?!auto)", word) for word in words):
                small = {}
            small = self.fit_cache(words, small)
            words = [word for word in words if word.lstrip("-").partition("=")[0] not in small]
            words += [f"--{key}={value}" for key, value in small.items()]
            if only_parsed:
                self.expect_exit_0([*words, "--print_config"])
                return
        elif only_parsed:
            self.expect_exit_0([*words, "--print_config"])
            return
        elif command == "study":
            if words[1] in ("resume", "report"):
                self.begin_study(Path(words[2]))
            if words[1] != "report":
                small = {} if words[1] == "resume" else self.fit_cache(words, DATA | {"model.width": "2"})
                words = [word for word in words if word.lstrip("-").partition("=")[0] not in {*small, "dry-run"}]
                words += ["--dry-run", *(f"--{key}={value}" for key, value in small.items())]
            if "better" in words:
                words += ["arms=[plain,dilated]"]  # others need weights that are not here
        elif command == "app":
            started = []
            self.monkeypatch.setattr("wssl_pl.app.server.serve", started.append)
            main(words)
            assert len(started) == 1
            return
        elif command == "test":
            words.append("--accelerator=cpu")
        elif command == "demo":
            words += [f"--{key}={value}" for key, value in (DATA | TRAINER).items()]
        elif command == "inpaint":
            words.append("device=cpu")
        elif "download=true" in words:  # tests/web/test_page.py has npm do it
            words[words.index("download=true")] = f"runtime={write_package(Path('npm'))}"
        if command not in ("train", "prepare", "study", "demo"):
            self.clear_output(words)
        if "--help" in words or "--version" in words:
            self.expect_exit_0(words)
        else:
            main(words)

    def fit_cache(self, words, small):
        """Return the small settings with the size of the cache that the words name, if they name one."""
        for word in words:
            manifest = Path(word.partition("=")[2], "manifest.json")
            if "data.images=" in word and manifest.is_file() and "data.resize" in small:
                return small | {"data.resize": str(json.loads(manifest.read_text())["size"])}
        return small

    def expect_exit_0(self, words):
        """Run `wssl`, which may also end by `SystemExit` with code 0."""
        try:
            main(words)
        except SystemExit as error:
            if error.code not in (0, None):
                raise

    def existing(self, words, word):
        """Return the word with a path that exists in place of a placeholder."""
        key, equals, value = word.rpartition("=")
        name = key.lstrip("-")
        if "<" in value:
            (found,) = sorted(Path().glob(re.sub(r"<\w+>", "example", value)))
            return f"{key}={found}"
        if "$HOME" in value:
            return word.replace("$HOME", ".")
        if not equals and words[:2] == ["masks", "stats"] and word not in words[:2] and not word.startswith("-"):
            return word if Path(word).is_dir() else "masks_of_training"
        if not equals and "--compare" in words and word[0] != "-" and not Path(word).exists() and word != "evaluate":
            main(["evaluate", "pairs=PAIRS", "method=mean", f"out={word}"])
        if not equals and words[:1] == ["runs"] and word != "runs" and word[0] != "-" and not Path(word).exists():
            shutil.copytree("runs", Path(word, "example"))
        if Path(value).exists() or value in ("none", "shipped"):
            return word
        if name in ("images", "data.images"):
            return f"{key}=images"
        if name in ("masks", "data.masks"):
            return f"{key}=masks_of_training"
        if name == "ckpts":
            return f"{key}=runs"
        if name == "ckpt":
            stage = "pretext" if "stage=downstream" in words else "downstream"
            return f"{key}=runs/{stage}/example/best.ckpt"
        return word

    def clear_output(self, words):
        """Remove the output of an earlier line, as a reader who tries the examples in turn does."""
        names = [word.partition("=")[2] for word in words if word.startswith("out=")]
        names += [after for word, after in itertools.pairwise(words) if word == "-o"]
        for path in map(Path, names):
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)

    def begin_study(self, out):
        """Declare a study in a folder as `wssl study` does before its first run."""
        from wssl_pl.study.definition import read_study
        from wssl_pl.study.folder import StudyFolder

        if not (out / "study.json").exists():
            study = read_study(["controls"])
            study.options["common"] |= {key: int(value) for key, value in (DATA | {"model.width": "2"}).items()}
            StudyFolder(out).start(study)


@pytest.fixture
def page(template, tmp_path, monkeypatch):
    """Runs pages in a copy of the template."""
    shutil.copytree(template, tmp_path, dirs_exist_ok=True)
    shutil.copyfile(template / "runs/downstream/example/best.ckpt", tmp_path / "best.ckpt")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return Page(monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("name", PAGES)
def test_the_commands_and_examples_run(name, page):
    page.run(ROOT.joinpath(name).read_text())


def test_the_readme_shows_both_stages_and_the_test():
    text = ROOT.joinpath("README.md").read_text()
    shown = [line for language, _, code in blocks(text) if language in SHELL for line in commands(code)]
    for words in ("stage=pretext", "stage=downstream", " test "):
        assert any(words in line for line in shown)


@pytest.mark.parametrize(
    "line",
    ["frobnicate --now", "wssl inpaint photo.png mask.pgn -o x.png", "make cofee", "wssl stage=pretext taks=rotation"],
)
def test_a_line_that_does_not_work_is_found(line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    photo(0).save("photo.png")
    with pytest.raises(AssertionError):
        Page(monkeypatch).run(f"Text\n\n```\n{line}\n```\n")


def test_comments_and_continued_lines():
    code = "# first\nwssl inpaint a.png hole_color=#ff00ff \\\n    -o b.png   # the hole\n\n"
    assert [shlex.split(line) for line in commands(code)] == [
        ["wssl", "inpaint", "a.png", "hole_color=#ff00ff", "-o", "b.png"]
    ]
