"""The pictures of a report: figures of matplotlib from plain numbers. Knows no rows and no HTML."""

import functools
from collections import Counter
from typing import Any

_BLUE = "#4477aa"
_SHADES = ["#4477aa", "#cc6677", "#ddcc77", "#117733", "#88ccee", "#882255", "#44aa99", "#999933"]
_BINS = 50  # groups of requests along an axis
_VERBS, _OBJECTS = 20, 4  # as the Self-Instruct paper draws them
_NAMED = 2.2  # degrees below which an outer wedge has no room for its name; an inner one needs twice that


def figure(width: float = 9, height: float = 3.2, **options: Any) -> tuple[Any, Any]:
    """A figure and its axes, drawn without a display, in a font that knows Chinese where there is one."""
    import matplotlib
    from matplotlib.figure import Figure

    if fonts := cjk_fonts():
        matplotlib.rcParams["font.family"] = ["DejaVu Sans", fonts[0]]
    made = Figure(figsize=(width, height))
    return made, made.subplots(**options)


@functools.cache
def cjk_fonts() -> list[str]:
    """Installed fonts that have Chinese, Japanese and Korean characters."""
    import matplotlib.font_manager as fonts

    marks = ("CJK", "WenQuanYi", "wqy", "SimHei", "PingFang", "YaHei")

    def known() -> list[str]:
        return sorted({f.name for f in fonts.fontManager.ttflist if any(m in f.name for m in marks)})

    if not known():  # matplotlib keeps a list, which does not know what was installed since
        for path in fonts.findSystemFonts():
            if any(m in path for m in marks):
                fonts.fontManager.addfont(path)
    return sorted(known(), key=lambda name: "Sans" not in name)


def bars(values: dict[str, int]) -> Any:
    """Named numbers, one under another."""
    made, axes = figure(height=0.6 + 0.3 * len(values))
    axes.bar_label(axes.barh(list(values), list(values.values()), color=_BLUE), fmt="{:,.0f}", padding=3)
    axes.margins(x=0.1)
    axes.invert_yaxis()
    return made


def over_requests(history: list[dict[str, Any]]) -> Any:
    """Left: what became of the items of a request, as the run went on. Right: rows kept over the minutes.

    history: for each request `parsed`, `kept`, `dropped` (reason -> items) and `time` (seconds since the epoch or None).
    """
    made, (left, right) = figure(ncols=2, width=11, height=3.8, width_ratios=[3, 2])
    size = -(-len(history) // _BINS)
    groups = [history[i : i + size] for i in range(0, len(history), size)]
    totals = sum((Counter(h["dropped"]) for h in history), Counter[str]())
    names = [name for name, _ in totals.most_common(len(_SHADES) - 2)]
    parts = {"kept": [sum(h["kept"] for h in g) / len(g) for g in groups]}
    parts |= {n: [sum(h["dropped"].get(n, 0) for h in g) / len(g) for g in groups] for n in names}
    other = [sum(sum(h["dropped"].values()) for h in g) / len(g) for g in groups]
    other = [o - sum(parts[n][i] for n in names) for i, o in enumerate(other)]
    if any(o > 1e-9 for o in other):
        parts["other drops"] = other
    floor = [0.0] * len(groups)
    for (name, heights), shade in zip(parts.items(), _SHADES, strict=False):
        left.bar(range(0, len(history), size), heights, size, floor, align="edge", color=shade, label=name)
        floor = [f + h for f, h in zip(floor, heights, strict=True)]
    left.set(xlabel="request", ylabel="items a request", xlim=(0, len(history)))
    left.legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=3)
    _over_time(right, history)
    return made


def _over_time(axes: Any, history: list[dict[str, Any]]) -> None:
    timed = [h for h in history if h["time"] is not None]
    start, kept, minutes, rows = min((h["time"] for h in timed), default=0.0), 0, [], []
    for h in sorted(timed, key=lambda h: h["time"]):
        kept += h["kept"]
        minutes.append((h["time"] - start) / 60)
        rows.append(kept)
    axes.plot(minutes, rows, color=_BLUE)
    axes.set(xlabel="minutes since the first reply", ylabel="rows kept", ylim=(0, None))


def histograms(values: dict[str, list[Any]], unit: str) -> Any:
    """One panel for each list that holds anything; whole numbers in whole bins."""
    values = {name: numbers for name, numbers in values.items() if numbers} or {"nothing": [0]}
    made, panels = figure(ncols=len(values), squeeze=False)
    for axes, (name, numbers) in zip(panels[0], values.items(), strict=True):
        edges: Any = [i / 40 for i in range(41)]
        shown = numbers
        if all(isinstance(n, int) for n in numbers):
            high = sorted(numbers)[int(0.99 * (len(numbers) - 1))]
            step = -(-(high + 1) // 40)
            edges = range(0, high + 2 * step, step)
            shown = [min(n, edges[-1] - 1) for n in numbers]  # the last bin holds the longest hundredth
        axes.hist(shown, bins=edges, color=_BLUE)
        axes.set_title(f"{name} ({len(numbers):,})")
        axes.set_xlabel(unit)
    made.tight_layout()
    return made


def sunburst(pairs: "Counter[tuple[str, str]]") -> Any:
    """The commonest verbs inside and the commonest objects of each outside, both as large as their pairs are common."""
    verbs: Counter[str] = Counter()
    for (verb, _), number in pairs.items():
        verbs[verb] += number
    rings = {
        verb: sorted(((n, noun) for (v, noun), n in pairs.items() if v == verb), key=lambda p: (-p[0], p[1]))[:_OBJECTS]
        for verb, _ in verbs.most_common(_VERBS)
    }
    made, axes = figure(8, 8)
    inner = [sum(n for n, _ in ring) for ring in rings.values()]
    outer = [pair for ring in rings.values() for pair in ring]
    degree = 360 / max(sum(inner), 1)
    shades = [f"C{i % 10}" for i in range(len(rings))]
    pale = [(shade, 0.35) for shade, ring in zip(shades, rings.values(), strict=True) for _ in ring]
    edge = {"edgecolor": "white", "linewidth": 0.6}
    verb_names = [v if n * degree >= 2 * _NAMED else "" for v, n in zip(rings, inner, strict=True)]
    noun_names = [noun if n * degree >= _NAMED else "" for n, noun in outer]
    text = {"fontsize": 9, "ha": "center", "va": "center", "rotation_mode": "anchor"}
    axes.pie(inner, radius=0.6, labels=verb_names, labeldistance=0.62, colors=shades, rotatelabels=True, textprops=text, wedgeprops=edge)  # fmt: skip
    axes.pie([n for n, _ in outer], radius=1.0, labels=noun_names, labeldistance=0.8, colors=pale, rotatelabels=True, textprops=text | {"fontsize": 8}, wedgeprops={"width": 0.4, **edge})  # fmt: skip
    axes.set(xlim=(-1.02, 1.02), ylim=(-1.02, 1.02))
    return made
