"""Pictures of many runs: curves over each other, one parameter, a heat map of two, parallel axes for more."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from alpaca.summary import Run

CURVES = 20
"""Best runs whose curves are drawn; more cannot be told apart."""
SAME = 0.001
"""Losses within so many nats a token look alike on a heat map."""


def figures(runs: "list[Run]", keys: list[str]) -> Iterator[tuple[str, str, Any]]:
    """(file name, heading, figure) of each picture that these ranked runs have something for."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    drawn = [r for r in runs if r.curve]
    if drawn:
        figure = _curves(plt, drawn[:CURVES], keys)
        yield "summary", "Training loss" + (f", best {CURVES}" if len(drawn) > CURVES else ""), figure
        plt.close(figure)
    measured = [r for r in runs if r.loss is not None and r.status == "completed"]
    if len(measured) > 1 and keys:
        if len(keys) == 2:
            figure = _heat_map(plt, runs, keys)
        else:
            figure = (_one if len(keys) == 1 else _parallel)(plt, measured, keys)
        yield "parameters", "Parameters and final loss", figure
        plt.close(figure)


def label(run: "Run", keys: list[str]) -> str:
    """What tells a run from the others, short."""
    words = [f"{k.rpartition('.')[2].rpartition('/')[2]}={run.parameters.get(k, '')}" for k in keys]
    text = ", ".join(words) or run.name
    return text if len(text) <= 60 else text[:57] + "..."


def _curves(plt: Any, runs: "list[Run]", keys: list[str]) -> Any:
    from alpaca.results import _moving_mean

    figure, axes = plt.subplots(figsize=(9, 5), layout="constrained")
    colours = plt.get_cmap("viridis")
    for i, run in enumerate(runs):
        steps, losses = zip(*run.curve, strict=True)
        smooth = _moving_mean(losses, max(1, len(losses) // 40))
        colour = colours(i / max(1, len(runs) - 1) * 0.9)
        axes.plot(steps, smooth, color=colour, linewidth=1.6, label=label(run, keys))
    axes.set(xlabel="optimiser step", ylabel="training loss (nats per token)")
    axes.locator_params(axis="x", integer=True)
    axes.grid(alpha=0.25)
    axes.legend(frameon=False, fontsize=8, title="best first", ncols=1 + len(runs) // 11)
    return figure


def _number(text: str | None) -> float | None:
    try:
        return float(text or "")
    except ValueError:
        return None


def positions(values: list[str]) -> dict[str, float]:
    """Places on an axis: numbers in their order, evenly spaced (ranks of a search are often powers), then words."""
    ordered = sorted(set(values), key=lambda v: (_number(v) is None, _number(v) or 0.0, v))
    return {value: float(i) for i, value in enumerate(ordered)}


def _one(plt: Any, runs: "list[Run]", keys: list[str]) -> Any:
    places = positions([r.parameters.get(keys[0], "") for r in runs])
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    axes.plot([places[r.parameters.get(keys[0], "")] for r in runs], [r.loss for r in runs], "o", color="#1f4e8c")
    axes.set_xticks(list(places.values()), list(places))
    axes.set(xlabel=keys[0], ylabel="final loss (nats per token)")
    axes.margins(x=0.15, y=0.2)
    axes.grid(alpha=0.25)
    return figure


def _heat_map(plt: Any, runs: "list[Run]", keys: list[str]) -> Any:
    """A cell for each pair of values: the final loss, or how a run without one ended."""
    import numpy as np

    across, down = (positions([r.parameters.get(k, "") for r in runs]) for k in keys)
    grid = np.full((len(down), len(across)), np.nan)
    ended = {}
    for run in reversed(runs):  # the best one last, where several share a cell
        place = int(down[run.parameters.get(keys[1], "")]), int(across[run.parameters.get(keys[0], "")])
        ended[place] = run.status
        if run.status == "completed" and run.loss is not None:
            grid[place] = run.loss
    size = (max(5, 1.1 * len(across) + 2.5), max(3.2, 0.6 * len(down) + 1.8))
    figure, axes = plt.subplots(figsize=size, layout="constrained")
    low = float(np.nanmin(grid))
    high = max(float(np.nanmax(grid)), low + SAME)
    axes.set_facecolor("#e4e4e4")
    image = axes.imshow(grid, cmap="viridis", aspect="auto", origin="lower", vmin=low, vmax=high)
    for (y, x), status in ended.items():
        value = grid[y, x]
        missing = bool(np.isnan(value))
        colour = "#555555" if missing else "white" if value < (low + high) / 2 else "black"
        axes.text(x, y, status if missing else f"{value:.4f}", ha="center", va="center", color=colour, fontsize=9)
    long = any(len(value) > 12 for value in across)
    axes.set_xticks(range(len(across)), list(across), rotation=20 if long else 0, ha="right" if long else "center")
    axes.set_yticks(range(len(down)), list(down))
    axes.set(xlabel=keys[0], ylabel=keys[1])
    figure.colorbar(image, label="final loss (nats per token)").ax.ticklabel_format(useOffset=False)
    return figure


def _parallel(plt: Any, runs: "list[Run]", keys: list[str]) -> Any:
    """One axis a parameter and one for the loss; a line is a run, dark for a low loss."""
    axes_places = [positions([r.parameters.get(k, "") for r in runs]) for k in keys]
    losses = [float(r.loss or 0.0) for r in runs]
    low, high = min(losses), max(losses)
    span = (high - low) or 1.0
    figure, axes = plt.subplots(figsize=(max(7, 1.8 * (len(keys) + 1)), 4.5), layout="constrained")
    colours = plt.get_cmap("viridis")
    for run, loss in reversed(list(zip(runs, losses, strict=True))):
        heights = [
            places[run.parameters.get(k, "")] / max(1, len(places) - 1)
            for k, places in zip(keys, axes_places, strict=True)
        ]
        height = (loss - low) / span
        axes.plot([*heights, height], color=colours(height * 0.9), linewidth=1.5, alpha=0.85)
    for i, places in enumerate(axes_places):
        axes.axvline(i, color="#888", linewidth=0.8)
        shown = list(places.items())[:: max(1, len(places) // 8)]
        for value, place in shown:
            axes.annotate(
                value[:16],
                (i, place / max(1, len(places) - 1)),
                (4, 0),
                textcoords="offset points",
                fontsize=8,
                bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1},
            )
    axes.axvline(len(keys), color="#888", linewidth=0.8)
    for share in (0.0, 0.5, 1.0):
        axes.annotate(f"{low + share * span:.3f}", (len(keys), share), (4, 0), textcoords="offset points", fontsize=8)
    axes.set_xticks(range(len(keys) + 1), [*(k.rpartition(".")[2] for k in keys), "final loss"])
    axes.set_yticks([])
    axes.set_xlim(-0.1, len(keys) + 0.5)
    return figure
