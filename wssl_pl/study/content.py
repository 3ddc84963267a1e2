"""What the report says, part by part, as blocks made from its numbers alone."""

from collections.abc import Mapping, Sequence
from typing import Any

from wssl_pl.evaluation.metrics import LABELS
from wssl_pl.evaluation.statistics import CONVERGENCE_METRIC as FIGURE
from wssl_pl.evaluation.statistics import near_chance
from wssl_pl.study.document import Block, Grid, Heading, Items, Picture, Text
from wssl_pl.study.notation import digits_of, mean_and_spread, probability, signed, span
from wssl_pl.study.ranking import FIGURE as BEST_BY

Summary = Mapping[str, Any]

OTHER_DATA = (
    "Mean ± standard deviation over seeds of the mean over the test pairs; raw is the whole output, composite has the "
    "known pixels of the input. The paper's figures come from other images, other masks and single runs, and it does "
    "not say how it measured: absolute values cannot be compared with them, at most the order of the rows. A pretext "
    "run that arms share counts in full for each."
)
FIGURE_COLUMNS = ("ssim_composite", "psnr_composite", "ssim", "psnr")


def facts(summary: Summary) -> list[Block]:
    """What was run, on what, with what."""
    runs, seeds, pairs = summary["runs"], summary["seeds"], summary["pairs"]
    measured = sum(len(arm["seeds"]) for arm in summary["arms"].values())
    wanted = len(seeds) * len(summary["arms"])
    steps = summary["declared"]["steps"]
    ended = sum(runs.get(state, 0) for state in ("done", "failed", "skipped"))
    open_ends = "**the study is not finished**" if ended < runs["all"] or not runs["all"] else "**some runs failed**"
    lines = [
        f"{len(summary['arms'])} arms x {len(seeds)} seeds ({', '.join(map(str, seeds))}); {measured} of {wanted} "
        f"measured, {runs.get('done', 0)} of {runs['all']} runs are done"
        + ("" if measured == wanted else f": {open_ends}, see what did not run"),
        f"Steps: {steps['pretext']:,} pretext, {steps['downstream']:,} downstream, unless the tables say otherwise",
    ]
    if pairs:
        lines.append(f"Measured on the same {pairs['count']} test pairs, hash {pairs['hash'][:16]}")
    for stage, options in summary["declared"]["options"].items():
        # The paths of the data are the machine's, and say nothing to a reader elsewhere.
        shown = [f"`{key}={value}`" for key, value in options.items() if key not in ("data.images", "data.masks")]
        if shown:
            lines.append(f"Options, {stage}: {' '.join(shown)}")
    for machine in summary["machines"]:
        lines.append(f"Measured on {machine['device']}, {machine['cores']} cores, torch {machine['torch']}")
    return [Items(lines)]


def order(summary: Summary) -> list[Block]:
    """Which arm came out best, how far the others are behind it, and what each cost; nothing of unconverged ones."""
    ranking, unit = summary["ranking"], LABELS[BEST_BY]
    if len(ranking) < 2:
        return []
    best = summary["arms"][ranking[0]["arm"]]
    rising = [
        f"{arm['label']} ({mean_and_spread(arm['figures'][BEST_BY], BEST_BY)} dB)"
        for arm in summary["arms"].values()
        if arm["seeds"] and arm["convergence"]["state"] == "not converged"
    ]
    return [
        Text(
            f"**Best of what was measured: {best['label']}**, {unit} {ranking[0]['mean']:.2f} dB ({_cost(best)}). "
            "The others, with the 95 % interval of the difference:"
        ),
        Items([_behind(entry, summary["arms"][entry["arm"]]) for entry in ranking[1:]]),
        Text(
            "Each interval is over seeds and images and stands for itself: it is not corrected for how many there are, "
            "as the verdicts are." + (f" Without a rank, as they still rose: {', '.join(rising)}." if rising else "")
        ),
    ]


def _behind(entry: Mapping[str, Any], arm: Mapping[str, Any]) -> str:
    between = "" if entry["low"] is None else f" {span(entry, BEST_BY)}"
    return f"{arm['label']}: {signed(entry['difference'], BEST_BY)} dB{between} ({_cost(arm)})"


def _cost(arm: Mapping[str, Any]) -> str:
    return f"{_stages(arm['steps'], ',.0f')} steps, {_stages(arm['minutes'], ',.1f')} min"


def verdicts(summary: Summary) -> list[Block]:
    """The verdicts, in words and then in numbers."""
    blocks: list[Block] = []
    for section in summary["sections"]:
        if not section["verdicts"]:
            continue
        blocks.append(Heading(section["title"], 3))
        blocks.append(Items([in_words(verdict, summary) for verdict in section["verdicts"]]))
        cells = [["claim", "figure", "verdict", "better", "than", "difference [95 %]", "bootstrap [95 %]"]]
        cells[0] += ["p", "p (Holm)", "p exact", "seeds"]
        for verdict in section["verdicts"]:
            cells += _numbers(verdict)
        if len(cells) > 1:
            blocks.append(Grid(cells, words=(0, 1, 2)))
    if not blocks:
        blocks.append(Text("The study makes no claims."))
    return [Heading("Verdicts"), *blocks, *picture(summary, "verdicts.png")]


def in_words(verdict: Mapping[str, Any], summary: Summary) -> str:
    """One verdict in a line."""
    said = f"**{verdict['state']}**"
    if verdict["reason"]:
        said += f" ({verdict['reason']})" if verdict["state"] != "not decided" else f": {verdict['reason']}"
    said = f"{verdict['claim']} — {said}"
    for figure, entry in verdict["figures"].items():
        unit = " dB" if figure.startswith("psnr") else ""
        said += (
            f"; {LABELS[figure]} {signed(entry['difference'], figure)}{unit} {span(entry, figure)}, p "
            f"{probability(entry['p'])}, {probability(entry['p_holm'])} after Holm"
        )
    if verdict["figures"]:
        count, wanted = len(verdict["seeds"]), len(summary["seeds"])
        said += f"; {count} seeds" if count == wanted else f"; {count} of {wanted} seeds"
    if verdict["figures"] and verdict["left_out"]:
        names = [f"{summary['arms'][arm]['label']} ({why})" for arm, why in verdict["left_out"].items()]
        said += f"; left out: {', '.join(names)}"
    return said


def _numbers(verdict: Mapping[str, Any]) -> list[list[str]]:
    rows: list[list[str]] = []
    for figure, entry in verdict["figures"].items():
        digits = digits_of(figure)
        rows.append(
            ["" if rows else verdict["claim"], LABELS[figure], f"**{entry['state']}**"]
            + [f"{entry[side]:.{digits}f}" for side in ("better_mean", "than_mean")]
            + [f"{signed(entry['difference'], figure)} {span(entry, figure)}", span(entry, figure, "bootstrap_")]
            + [probability(entry["p"]), probability(entry["p_holm"])]
            + ["-" if entry["p_exact"] is None else f"{entry['p_exact']:.3g}"]
            + [f"{entry['better_in']} of {len(entry['by_seed'])} better"]
        )
    return rows


def how_to_read(summary: Summary) -> list[Block]:
    """How the verdicts come about, and what so few seeds can tell."""
    boot, few = summary["bootstrap"], summary["few_seeds"]
    lines = [
        "The seed is the unit of replication. Arms are compared on the same seeds and images; a group of arms counts "
        "with its mean. The interval and p treat seeds and images as samples, both random and crossed: an analysis of "
        "variance as for few readers of the same cases (Dorfman, Berbaum and Metz 1992; Hillis 2007). Beside it stands "
        f"the hierarchical bootstrap over seeds, then images ({boot['resamples']:,} resamples; Davison and Hinkley "
        "1997, Saravanan et al. 2020), and a verdict needs both to be clear of 0.",
        "Holm's correction (1979) is over the claims of a section, those not decided included, for each figure apart; "
        "a claim is supported when all of its figures support it, refuted when all of them say the opposite, both with "
        "p < 0.05 after correction. What one figure alone shows is called partly supported, and is not corrected over "
        "figures.",
        "“Not shown” does not say that there is no difference: the interval tells how large one may be.",
        summary["convergence_rule"] + " " + _about_schedule(summary),
    ]
    if "t" in few:
        lines.append(
            f"What {few['seeds']} seeds can tell: where they decide, the interval is {few['t']:.2f} standard errors "
            "wide on each side, and right only if the differences of seeds are roughly normal. The bootstrap's alone "
            f"would hold the truth {few['largest_percentile_coverage']:.0%} of the time at most. No test without that "
            f"assumption can reach a p below {few['smallest_exact_p']:.3g} (the exact sign-flip test over seeds, "
            "“p exact”, which is for information; six seeds are the fewest that get below 0.05)."
        )
    return [Heading("How to read the verdicts", 3), Items(lines)]


def _about_schedule(summary: Summary) -> str:
    said = "means only that the budget of steps is used up, not that more steps would bring nothing."
    if summary["cosine"]:
        return f"The learning rate here falls to zero along a cosine: a flat end then {said}"
    return f"Where a learning rate falls to zero by the last step (a cosine schedule), a flat end {said}"


def arm_table(summary: Summary, names: Sequence[str]) -> Grid:
    """One row per measured arm, as in the paper's tables, the paper's figures at its end."""
    header = ["arm", *[LABELS[figure] for figure in FIGURE_COLUMNS]]
    header += ["seeds", "paper SSIM", "paper PSNR", "steps", "minutes", "pretext accuracy", "converged"]
    rows = [header]
    measured = [name for name in names if summary["arms"][name]["seeds"]]
    for name in measured or names:
        arm = summary["arms"][name]
        row = [arm["label"], *[mean_and_spread(arm["figures"][figure], figure) for figure in FIGURE_COLUMNS]]
        row += [f"{len(arm['seeds'])} of {len(summary['seeds'])}"]
        row += [f"{arm['paper'][key]:.{digits}f}" if key in arm["paper"] else "-" for key, digits in PAPER]
        row += [_stages(arm["steps"], ",.0f"), _stages(arm["minutes"], ",.1f")]
        row += [", ".join(_accuracy(task, value) for task, value in arm["accuracy"].items()) or "-"]
        rows.append([*row, convergence_words(arm)])
    return Grid(rows, words=(0,))


def _accuracy(task: str, value: float) -> str:
    return f"{task} {value:.2f}" + (" (**near chance**)" if near_chance(value) else "")


PAPER = (("ssim", 4), ("psnr", 2))


def convergence_words(arm: Mapping[str, Any]) -> str:
    """Whether an arm had converged, with its rise; nothing for one that was not measured."""
    judged = arm["convergence"]
    if not arm["seeds"]:
        return "-"
    if judged["rise"] is None:
        return "unknown"
    error = "" if judged["error"] is None else f" ± {judged['error']:.2f}"
    state = "yes" if judged["state"] == "converged" else "**not converged**"
    return f"{state} ({signed(judged['rise'], FIGURE)}{error} dB)"


def section_tables(summary: Summary) -> list[Block]:
    """A table and the pictures of every section; one whose arms stand in tables before it has no table of its own."""
    blocks: list[Block] = [Heading("Tables and figures"), Text(OTHER_DATA)]
    shown: set[str] = set()
    for section in summary["sections"]:
        blocks.append(Heading(section["title"], 3))
        if shown.issuperset(section["arms"]):
            blocks.append(Text("Its arms are those of the tables above."))
        else:
            blocks.append(arm_table(summary, section["arms"]))
        shown |= set(section["arms"])
        for plot in section["plots"]:
            blocks += picture(summary, picture_file(section["name"], plot))
    if summary["notes"]:
        blocks.append(Items(summary["notes"]))
    return blocks


def picture_file(section: str, plot: str) -> str:
    """The name of a section's picture in the report's folder."""
    return f"{plot}.png" if plot == section else f"{section}_{plot}.png"


def curves(summary: Summary) -> list[Block]:
    """Every arm's validation curves."""
    found = picture(summary, "curves.png")
    return [Heading("Validation curves"), *(found or [Text("No run has a validation curve yet.")])]


def picture(summary: Summary, file: str) -> list[Block]:
    """A picture of the report, if there is one."""
    return [Picture(file, summary["pictures"][file])] if file in summary["pictures"] else []


def not_run(summary: Summary) -> list[Block]:
    """What did not run or failed, and why."""
    rows = [["arm", "seeds", "state", "reason"]]
    for arm in summary["arms"].values():
        seeds: dict[tuple[str, str], list[str]] = {}
        for gap in arm["missing"]:
            seeds.setdefault((gap["state"], gap["reason"]), []).append(str(gap["seed"]))
        rows += [[arm["label"], ", ".join(its), *why] for why, its in seeds.items()]
    blocks: list[Block] = [Heading("What did not run")]
    blocks.append(Grid(rows, words=(0, 1, 2, 3)) if len(rows) > 1 else Text("Every arm was measured with every seed."))
    if left_out := summary["declared"].get("left_out"):
        blocks += [Text("Declared, and left out of this study:"), Items(list(left_out.values()))]
    failed = [run for run in summary["failed"] if run["stage"] == "pretext" or run["trial"]]
    if failed:
        lines = [
            f"{'trial' if run['trial'] else run['stage']} run `{run['id']}`, seed {run['seed']} "
            f"({', '.join(run['arms'])}) {run['state']}: {run['reason'] or 'no reason was kept'}"
            for run in failed
        ]
        blocks += [Text("Runs that others stand on:"), Items(lines)]
    return blocks


def search(summary: Summary) -> list[Block]:
    """What the learning-rate search tried and chose."""
    tune = summary["search"]
    if not tune:
        return []
    values = [str(value) for value in tune["values"]]
    rows = [["arm", *[f"{tune['option']}={value}" for value in values], "chosen"]]
    for name, arm in tune["arms"].items():
        cells = [_tried(arm, value, tune["figure"]) for value in values]
        rows.append([summary["arms"][name]["label"], *cells, ", ".join(arm["chosen"]) or "-"])
    about = (
        f"Best validation {LABELS[tune['figure']]} of trials of {tune['steps']:,} steps with seed {tune['seed']}, the "
        "same values and steps for every arm; the trials are in no table."
    )
    return [Heading(f"The search of {tune['option']}"), Text(about), Grid(rows), *_edge(tune)]


def _edge(tune: Mapping[str, Any]) -> list[Block]:
    """Says whose best value may lie beyond what was tried."""
    chosen = [float(value) for arm in tune["arms"].values() for value in arm["chosen"]]
    values = [float(value) for value in tune["values"]]
    ends = ((min(values), "smallest", "smaller"), (max(values), "largest", "larger"))
    lines = [
        f"{chosen.count(end)} of {len(chosen)} arms chose the {which} value, and might do better with a {still} one"
        for end, which, still in ends
        if end in chosen
    ]
    return [Text("; ".join(lines) + ".")] if lines else []


def _tried(arm: Mapping[str, Any], value: str, figure: str) -> str:
    found = next((entry for key, entry in arm["tried"].items() if float(key) == float(value)), None)
    if found is None or found["best"] is None:
        return "-" if found is None else found["state"]
    text = f"{found['best']:.{digits_of(figure)}f}"
    return f"**{text}**" if any(float(chosen) == float(value) for chosen in arm["chosen"]) else text


def _stages(amounts: Mapping[str, float], form: str) -> str:
    return " + ".join(format(amount, form) for amount in amounts.values() if amount) or "-"
