"""What `wssl study where` shows: results as JSON, the table of `wssl advise`, tables and plots of docs/where.md.

    python benchmarks/where.py runs/study/where       # the study, finished or not, or imported from committed results
    python benchmarks/where.py --costs                # the costs of the arms' steps, for the definition

Of a study's folder it writes the finished runs to benchmarks/results/where (`wssl study export`), the table to
wssl_pl/study/advice.json, and docs/where.md with docs/where_*.svg; sections without results stay as they are. A folder
that lacks a section of benchmarks/results/where is refused.
"""

import argparse
import json
import re
import statistics as stats
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import scipy
import torch
from blocks import fill_block

from wssl_pl.drawing import new_figure, save_figure
from wssl_pl.evaluation.pages import markdown, plain_frame
from wssl_pl.evaluation.statistics import CONVERGENCE_METRIC, MIN_SEEDS, compare, judge_convergence
from wssl_pl.study.advice import PLAIN, RIVAL, TABLE, Findings, Gain, Row
from wssl_pl.study.cost import Stepper, batch_shape
from wssl_pl.study.definition import read_studies
from wssl_pl.study.folder import StudyFolder
from wssl_pl.study.plan import make_plan
from wssl_pl.study.plots import COLOURS
from wssl_pl.study.report import shift_rows
from wssl_pl.study.results import Results, read_results
from wssl_pl.study.sections import open_sections, section_names
from wssl_pl.study.summary import find_shifts, summarise
from wssl_pl.study.transfer import export_study
from wssl_pl.study.verdicts import group_values, points_of

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "where"
PAGE = ROOT / "docs" / "where.md"
MADE_BY = "benchmarks/where.py: {}"
PROBES = ("val/probe_psnr", "val/rankme")
RESAMPLES = 2000
MIN_PRETEXTS = 12  # for a correlation with the probes
COUNTS = re.compile(r"(.+)_(\d+)")  # an arm and its number of training images


def gain(results: Results, arm: str, than: str, metric: str) -> Gain | None:
    """Return the difference of two arms with its interval; None with too few seeds in common."""
    runs = [results.measured(name) for name in (arm, than)]
    seeds = [seed for seed in runs[0] if seed in runs[1]]
    if arm == than or len(seeds) < MIN_SEEDS:
        return None
    values = [group_values(results, [name], seeds, metric) for name in (arm, than)]
    (found,) = compare((values[0] - values[1])[None])
    if found is None:
        return None
    return Gain(round(found.mean, 4), round(found.low, 4), round(found.high, 4), found.p_exact)


def rows(results: Results, names: dict[str, str], case: str) -> dict[str, Row]:
    """Return the measured arms of a case, by their names in it."""
    metric = "psnr" if results.restore else "psnr_composite"
    lpips = metric.replace("psnr", "lpips")
    found = {}
    for name, full in names.items():
        seeds = list(results.measured(full))
        if not seeds:
            continue
        mean = {key: float(group_values(results, [full], seeds, key).mean()) for key in (metric, lpips)}
        plain, rival = (names.get(one) for one in (PLAIN[case], RIVAL[case]))
        arm = results.study.arms[full]
        own = results.measured(full).values()
        chosen = Counter(tuple(sorted((run.status.chosen or {}).items())) for run in own)
        curves = [points_of(results.curves(run.id), CONVERGENCE_METRIC) for run in own]
        found[name] = Row(
            arm.label,
            len(seeds),
            round(mean[metric], 4),
            round(mean[lpips], 5) if np.isfinite(mean[lpips]) else None,
            gain(results, full, plain, metric) if plain else None,
            gain(results, full, rival, metric) if rival and name != PLAIN[case] else None,
            len(seeds) == len(results.study.seeds)
            and not name.endswith("_steps")
            and not arm.downstream.get("model.strength_channels")
            and judge_convergence(curves).state != "not converged",
            dict(chosen.most_common(1)[0][0]),
        )
    return found


def by_count(results: Results) -> dict[int, dict[str, str]]:
    """Return the full names of arms by number of training images and short name."""
    found: dict[int, dict[str, str]] = {}
    for full in results.study.arms:
        if match := COUNTS.fullmatch(full):
            found.setdefault(int(match[2]), {})[match[1]] = full
    return found


def collect(sections: dict[str, Results]) -> Findings:
    """Return the table that advice is taken from."""
    pairs: dict[int, dict[str, Row]] = {}
    for name in ("few_pairs", "more_pairs"):
        if name in sections:
            for count, names in by_count(sections[name]).items():
                pairs[count] = rows(sections[name], names, "few_pairs")
    damaged = {}
    if "damaged" in sections:
        damaged = rows(sections["damaged"], {name: name for name in sections["damaged"].study.arms}, "damaged")
    study = next(iter(sections.values())).study
    options = study.options["common"]
    about = (
        f"faces of {options['data.image_size']} px, holes of 30 to 50 %, a network of width {options['model.width']}, "
        "equal training seconds"
    )
    few = {str(count): pairs[count] for count in sorted(pairs) if pairs[count]}
    return Findings(about, few, damaged)


def table(found: dict[str, Row]) -> list[str]:
    """Return a Markdown table of arms."""
    lines = ["| | seeds | PSNR (dB) | against no pretext | against the pretext without heads | p exact | LPIPS |"]
    lines.append("|---|" + "---:|" * 6)
    for row in found.values():
        p = "-" if row.gain is None or row.gain.p_exact is None else f"{row.gain.p_exact:.3g}"
        lpips = "-" if row.lpips is None else f"{row.lpips:.4f}"
        cells = [
            row.label,
            str(row.seeds),
            f"{row.psnr:.2f}",
            str(row.gain or "-"),
            str(row.over_rival or "-"),
            p,
            lpips,
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def draw_counts(pairs: dict[str, dict[str, Row]], path: Path) -> None:
    """Draw PSNR and LPIPS of each arm against the number of training images."""
    labels = {"psnr": "PSNR composite (dB)", "lpips": "LPIPS composite"}
    if all(row.lpips is None for found in pairs.values() for row in found.values()):
        del labels["lpips"]
    figure = new_figure(4.5 * len(labels), 3.6)
    panels = figure.subplots(1, len(labels), squeeze=False)[0]
    arms = dict.fromkeys(name for found in pairs.values() for name in found)
    for axes, (value, label) in zip(panels, labels.items(), strict=True):
        for number, arm in enumerate(arms):
            points = [(int(n), getattr(found[arm], value)) for n, found in pairs.items() if arm in found]
            points = [(n, y) for n, y in points if y is not None]
            text = next(found[arm].label for found in pairs.values() if arm in found).rpartition(",")[0]
            style = {"color": COLOURS[number % len(COLOURS)], "label": text, "marker": "o", "ms": 4}
            axes.plot(*zip(*points, strict=True), **style) if points else None
        axes.set_xscale("log")
        axes.set_xticks([int(n) for n in pairs], list(pairs))
        axes.minorticks_off()
        axes.set(xlabel="training images", ylabel=label)
        axes.grid(alpha=0.3)
        plain_frame(axes)
    handles, texts = panels[0].get_legend_handles_labels()
    figure.legend(handles, texts, loc="outside lower center", ncols=2, fontsize=8, frameon=False)
    save_figure(figure, path)


def draw_gains(found: dict[str, Row], path: Path) -> None:
    """Draw each arm's difference to the plain one with its interval."""
    shown = [row for row in found.values() if row.gain is not None]
    figure = new_figure(8.0, 0.8 + 0.34 * len(shown))
    axes = figure.subplots()
    for place, row in enumerate(shown):
        assert row.gain is not None
        colour = "#1a7f37" if row.gain.low > 0 else "#b3261e" if row.gain.high < 0 else "#555555"
        axes.plot([row.gain.low, row.gain.high], [place, place], color=colour, lw=2.2)
        axes.plot(row.gain.mean, place, "o", color=colour)
    axes.axvline(0, color="#222222", lw=0.9)
    axes.set_yticks(range(len(shown)), [row.label for row in shown], fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel("PSNR against no pretext at equal seconds (dB, 95 %)")
    axes.grid(axis="x", alpha=0.3)
    plain_frame(axes)
    save_figure(figure, path)


def draw_shifts(results: Results, found: dict[str, dict[str, list[float]]], path: Path) -> None:
    """Draw the losses of every arm, a column per set."""
    sets = list(dict.fromkeys(name for own in found.values() for name in own))
    figure = new_figure(1.0 * len(sets) + 4.5, 0.9 + 0.3 * len(found))
    axes = figure.subplots()
    means = np.array([[stats.mean(own[name]) for name in sets] for own in found.values()])
    spread = means - means.mean(axis=0)  # the colour compares the arms on one set
    limit = max(float(np.abs(spread).max()), 1e-6)
    axes.imshow(spread, cmap="RdYlGn_r", vmin=-limit, vmax=limit, aspect="auto")
    for (row, column), value in np.ndenumerate(means):
        colour = "white" if abs(spread[row, column]) > 0.6 * limit else "black"
        axes.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=8, color=colour)
    axes.set_xticks(range(len(sets)), [name.replace("_", "\n") for name in sets], fontsize=8)
    axes.set_yticks(range(len(found)), [results.study.arms[name].label for name in found], fontsize=8)
    axes.set_title("dB lost against the own test pairs; green: less than the other arms", fontsize=9)
    save_figure(figure, path)


def probed(sections: dict[str, Results], within: bool = False) -> list[tuple[str, str, dict[str, float], float]]:
    """Return of every measured run after a pretext its group, pretext run, last probe, and PSNR.

    Runs of a group have the same downstream stage: section, number of training images, frozen or not, with the
    pretext's decoder or without. `within` groups have the same tasks too, and differ in the seed alone. Sections that
    restore are omitted: the probe fills holes of images without damages.
    """
    found = []
    for section, results in sections.items():
        if results.restore:
            continue
        for name in results.study.arms:
            for run in results.measured(name).values():
                if run.pretext is None:
                    continue
                curves = results.curves(run.pretext)
                last = {tag: points[-1][1] for tag in PROBES if (points := points_of(curves, tag))}
                shared = ("data.train_images", "model.freeze_layers", "model.reuse")
                options = {key: run.options.get(key) for key in shared}
                if within:
                    options |= results.study.arms[name].pretext or {}
                value = float(results.evaluations[run.id].table.column("psnr_composite").mean())
                found.append((f"{section} {options}", run.pretext, last, value))
    return found


def correlate(found: Sequence[tuple[str, str, dict[str, float], float]], tag: str) -> dict[str, Any] | None:
    """Return Spearman's correlation of a probe with the PSNR, both less their means of a group, and its interval.

    The interval is that of a bootstrap over pretext runs, which several runs share.
    """
    known = [(group, pretext, probe[tag], value) for group, pretext, probe, value in found if tag in probe]
    groups = [group for group, *_ in known]
    known = [entry for entry in known if groups.count(entry[0]) > 2]
    pretexts = sorted({entry[1] for entry in known})
    if len(pretexts) < MIN_PRETEXTS:
        return None
    x, y = (np.array([entry[place] for entry in known]) for place in (2, 3))
    for group in set(groups):
        rows = np.array([entry[0] == group for entry in known])
        if rows.any():
            x[rows] -= x[rows].mean()
            y[rows] -= y[rows].mean()
    members = [np.flatnonzero([entry[1] == name for entry in known]) for name in pretexts]
    generator = np.random.Generator(np.random.PCG64(0))
    drawn = []
    for _ in range(RESAMPLES):
        chosen = np.concatenate([members[number] for number in generator.integers(len(members), size=len(members))])
        drawn.append(scipy.stats.spearmanr(x[chosen], y[chosen]).statistic)
    low, high = np.nanquantile(drawn, [0.025, 0.975]).tolist()
    rho = float(scipy.stats.spearmanr(x, y).statistic)
    return {"rho": rho, "low": low, "high": high, "runs": len(known), "pretexts": len(pretexts), "x": x, "y": y}


def draw_probe(found: dict[str, dict[str, Any]], path: Path) -> None:
    """Draw final PSNR against each probe, both less their means of a group."""
    figure = new_figure(4.2 * len(found), 3.4)
    for axes, (tag, own) in zip(figure.subplots(1, len(found), squeeze=False)[0], found.items(), strict=True):
        axes.plot(own["x"], own["y"], "o", ms=4, alpha=0.6, color=COLOURS[0])
        axes.set_xlabel(f"{tag} of the pretext stage, less its group's mean", fontsize=8)
        axes.set_ylabel("final PSNR, less its group's mean (dB)", fontsize=8)
        axes.set_title(f"Spearman {own['rho']:+.2f} [{own['low']:+.2f}, {own['high']:+.2f}]", fontsize=9)
        axes.grid(alpha=0.3)
        plain_frame(axes)
    save_figure(figure, path)


def verdict_lines(results: Results) -> list[str]:
    """Return the verdicts of a section, a line each."""
    report = summarise(results)
    verdicts = [verdict for own in report.verdicts.values() for verdict in own]
    declared = len(results.study.seeds)
    open_ones = [
        verdict
        for verdict in verdicts
        if (verdict.reason or "").endswith("not run") or 0 < len(verdict.seeds) < declared
    ]
    lines = [
        f"- **{verdict.state}**: {verdict.claim.claim}" + (f" ({verdict.reason})" if verdict.reason else "")
        for verdict in verdicts
        if verdict not in open_ones
    ]
    if results.study.convergence == "reported":
        rising = [arm for arm in report.arms.values() if arm.convergence.state == "not converged"]
        shown = [f"{arm.label} ({arm.convergence.slope:+.2f} dB)" for arm in rising]
        lines += [f"- Not converged in these steps, dB in the last fifth: {', '.join(shown)}"] if shown else []
    if open_ones:
        lines.append(f"- Not decided yet, as runs are missing: {len(open_ones)} of {len(verdicts)} claims")
    guessing = [
        f"{task} in {count} runs of {arm.label}"
        for arm in report.arms.values()
        for task, count in arm.near_chance.items()
    ]
    return [*lines, *([f"- Heads at chance: {', '.join(guessing)}"] if guessing else [])]


def time_lines(results: Results, case: str) -> list[str]:
    """Return the processor times of arms against the one without a pretext, of seeds that were not interrupted."""
    found: dict[str, float] = {}
    for arm in results.study.arms:
        chains = [[part.status for part in results.chain(run)] for run in results.measured(arm).values()]
        whole = [sum(part.cpu_seconds for part in own) for own in chains if all(part.attempts <= 1 for part in own)]
        if sum(whole):
            found[arm] = float(np.mean(whole))
    parts = []
    for arm, seconds in found.items():
        plain = COUNTS.sub(rf"{PLAIN[case]}_\2", arm) if COUNTS.fullmatch(arm) else PLAIN[case]
        if plain in found and arm != plain and "_steps" not in arm:
            parts.append(f"{results.study.arms[arm].label} {seconds / found[plain] - 1:+.0%}")
    return [f"- Processor time against that of {PLAIN[case]}: {', '.join(parts)}"] if parts else []


def blocks(sections: dict[str, Results], findings: Findings, folder: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield the blocks of the page that there are results for; draws their plots beside it."""
    if findings.few_pairs:
        draw_counts(findings.few_pairs, folder / "where_few_pairs.svg")
        lines = ["![PSNR and LPIPS against the number of training images](where_few_pairs.svg)", ""]
        for found in findings.few_pairs.values():
            lines += [*table(found), ""]
        if (results := sections.get("few_pairs")) is not None:
            lines += [*verdict_lines(results), *time_lines(results, "few_pairs")]
        yield "few pairs", lines
    if findings.damaged:
        draw_gains(findings.damaged, folder / "where_damaged.svg")
        lines = ["![Gains on damaged photographs](where_damaged.svg)", "", *table(findings.damaged), ""]
        yield "damaged", [*lines, *verdict_lines(sections["damaged"]), *time_lines(sections["damaged"], "damaged")]
    if "unseen" in sections:
        arms = {name: name for name in sections["unseen"].study.arms}
        yield "unseen", table(rows(sections["unseen"], arms, "damaged"))
    lines = []
    for name, results in sections.items():
        if lost := find_shifts(results):
            draw_shifts(results, lost, folder / f"where_shifts_{name}.svg")
            table_of_sets = markdown(shift_rows(lost, results.study.arms))
            lines += [f"![dB lost elsewhere, {name}](where_shifts_{name}.svg)", "", table_of_sets, ""]
    if lines:
        yield "out of domain", lines
    probes, alike = probed(sections), probed(sections, within=True)
    known = {tag: own for tag in PROBES if (own := correlate(probes, tag)) is not None}
    if known:
        draw_probe(known, folder / "where_probe.svg")
        yield (
            "probe",
            ["![Final PSNR against the probes](where_probe.svg)", ""]
            + [
                f"- `{tag}`: Spearman {own['rho']:+.2f} [{own['low']:+.2f}, {own['high']:+.2f}], "
                f"{own['runs']} runs after {own['pretexts']} pretext runs; among seeds of one pretext "
                + (f"{one['rho']:+.2f} [{one['low']:+.2f}, {one['high']:+.2f}]" if one else "not yet known")
                for tag, own in known.items()
                for one in [correlate(alike, tag)]
            ],
        )
    if "tables" in sections:
        yield "tables", verdict_lines(sections["tables"])


def measure_costs(rounds: int) -> None:
    """Print the time of a step of every arm's stages in that of the plain one, on one thread."""
    torch.set_num_threads(1)
    for section in ("few_pairs", "damaged", "more_pairs"):
        (study,) = read_studies(["where"], [section]).values()
        plan = make_plan(study)
        firsts = {(run.stage, run.arms[0]): run for run in reversed(plan.runs.values()) if not run.trial}
        kinds = {(run.stage, *run.arms): run for run in firsts.values()}
        steppers = {name: Stepper(plan, run) for name, run in kinds.items()}
        seconds: dict[Any, list[float]] = {name: [] for name in steppers}
        for turn in range(rounds + 1):
            for name, stepper in steppers.items():
                step = stepper.step(*batch_shape(kinds[name]))
                if turn:
                    seconds[name].append(step)
        plain_arm = PLAIN.get(section, PLAIN["few_pairs"])
        plain = next(name for name in kinds if any(COUNTS.sub(r"\1", arm) == plain_arm for arm in name[1:]))
        for name, own in seconds.items():
            step, ratio = stats.median(own), stats.median(own) / stats.median(seconds[plain])
            print(f"{section} {' '.join(name)[:90]}: {step:.4f} s, {ratio:.2f}")


def main() -> None:
    """Write what the study shows, or measure costs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path, nargs="?", help="the study's folder")
    parser.add_argument("--costs", action="store_true", help="measure the costs of steps")
    parser.add_argument("--rounds", type=int, default=7, help="steps that are measured of each kind")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--table", type=Path, default=TABLE)
    parser.add_argument("--page", type=Path, default=PAGE)
    options = parser.parse_args()
    if options.costs:
        measure_costs(options.rounds)
    if options.study is None:
        if not options.costs:
            parser.error("name the study's folder, or add --costs")
        return
    print(f"{export_study(options.study, options.results)} finished runs in {options.results}")
    folders: list[StudyFolder] = open_sections(options.study)
    if lacking := [name for name in section_names(options.results) if name not in [f.path.name for f in folders]]:
        raise SystemExit(
            f"{options.study} lacks {lacking[0]}: `wssl study import {options.results}`, and give its folder"
        )
    found = {folder.path.name: read_results(folder.path) for folder in folders}
    sections = {name: results for name, results in found.items() if results.evaluations}
    if not sections:
        raise SystemExit("no run is measured yet: nothing is written")
    findings = collect(sections)
    options.table.write_text(json.dumps(asdict(findings), indent=1) + "\n")
    text = options.page.read_text()
    for name, lines in blocks(sections, findings, options.page.parent):
        text = fill_block(text, MADE_BY.format(name), "\n".join(lines))
        print(name)
    options.page.write_text(text)


if __name__ == "__main__":
    main()
