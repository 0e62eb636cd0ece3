"""Page of a report: complete, self-contained, and inert with hostile names."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from jinja2 import UndefinedError

from cluster.artifact.entries import Latency, ProgramEntry
from cluster.artifact.layout import Layout, Shard
from cluster.artifact.manifest import Drop, Score
from cluster.compression.record import BuildRecord, LayerSize, StepRecord
from cluster.compression.report.cautions import cautions
from cluster.compression.report.html import TEMPLATES, environment, page
from cluster.tensors import TensorSpec

EVIL = "<script>alert('x')</script>\"onload=\"&"
SECTIONS = ["headline", "scores", "latency", "search", "steps", "layers", "provenance"]


class Outline(HTMLParser):
    """Elements, ids and text of a page; checks that every element is closed."""

    EMPTY = ("meta", "br")

    def __init__(self, document: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(document)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.text += data

    def all(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.tags if tag == name]

    @property
    def ids(self) -> list[str]:
        return [str(attributes["id"]) for _, attributes in self.tags if "id" in attributes]

    @property
    def sections(self) -> list[str]:
        there = [str(tag["id"]) for tag in self.all("section")]
        return [section for section in there if section != "verdict"]


def test_page_shows_every_part_of_the_build(record: BuildRecord) -> None:
    outline = Outline(page(record))
    assert outline.sections == SECTIONS
    assert [tag["href"] for tag in outline.all("a")] == [f"#{name}" for name in SECTIONS]
    for shown in (
        "Accepted",
        "84.70 %",  # the winner's score, and its interval
        "83.12 % to 86.28 %",
        "drop at most 1.04 points (95 %)",
        "6.91×",  # speed-up at batch 1
        "9.40 ms → 1.36 ms",
        "6.25×",  # size
        "2.11×",  # multiply-accumulates
        "0.9810 (0.9750 to 0.9870)",  # another metric
        "Fastest on cpu-x86: openvino",
        "the graph holds an operator that torch.export cannot save",
        "prune structured 0.4, quantize static_int8",
        "stopped: the proxy lost 21.4 points",
        "1.75 points",  # the search's budget
        "12 min 14 s",  # what a step took
        "layer1.0.conv1 input",  # a calibrated range
        "OpenVINO's is calibrated separately",
        "layers kept in bfloat16",
        "26 smaller layers",
        "9f2c1f4e" * 8,
        "Intel(R) Xeon(R)",
        "openvino2026.4.0",
        "max_accuracy_drop: 0.0175",  # the recipe
        "after the training that begins the recipe; the gate does not judge that training.",
        "2026-11-22T14:03:11+00:00",
    ):
        assert shown in outline.text, shown
    assert "never trained" not in outline.text


def test_page_marks_checks_of_default_limits(record: BuildRecord) -> None:
    assert "(default)" not in Outline(page(record)).text
    checks = [
        check.model_copy(update={"default": check.name == "min_speedup"}) for check in record.checks
    ]
    shown = Outline(page(record.model_copy(update={"checks": tuple(checks)}))).text
    assert shown.count("(default)") == 1
    assert "min_speedup (default)" in shown


def test_cut_has_a_row_per_stage(record: BuildRecord) -> None:
    tensors = [TensorSpec(name=name, datatype="FP32", shape=(-1, 256)) for name in "abc"]

    def shard(stage: int, ms: float) -> Shard:
        program = ProgramEntry(
            kind="aoti",
            target="cpu-x86",
            file=f"{stage}.pt2",
            cpu_features=(),
            torch_version="2",
            native_runner=None,
            python_abi=None,
            inputs=(tensors[stage],),
        )
        latency = tuple(Latency(batch=n, p50_ms=n * ms, p99_ms=n * ms) for n in (1, 8))
        return Shard(
            stage=stage,
            tp_rank=0,
            program=program,
            outputs=(tensors[stage + 1],),
            weights=f"{stage}.safetensors",
            weight_bytes=(stage + 1) * 3_000_000,
            activation_bytes=1,
            latency=latency,
        )

    layout = Layout(
        target="cpu-x86",
        kind="aoti",
        pipeline=2,
        tensor=1,
        after=(EVIL,),
        reduces=(0, 0),
        crossing=tuple((tensor,) for tensor in tensors),
        shards=(shard(0, 5.0), shard(1, 4.0)),
    )
    outline = Outline(page(record.model_copy(update={"layouts": (layout,)})))
    assert outline.sections == [*SECTIONS[:-1], "cuts", "provenance"]
    assert not outline.all("script")
    for shown in (
        "cpu-x86/aoti/pp2.tp1: 2 stages, the slowest 11.1% over the mean at batch 1",
        f"0{EVIL}5.00 ms40.00 ms3.00 MB1.02 kB",
        "1–4.00 ms32.00 ms6.00 MB1.02 kB",
    ):
        assert shown in outline.text, shown


def test_verdict_lists_failed_checks_first(record: BuildRecord) -> None:
    slow = record.checks[2].model_copy(
        update={"passed": False, "reason": "Compressed, but slower: 12 ms against 9.4 ms."}
    )
    checks = (*record.checks[:2], slow, *record.checks[3:])
    outline = Outline(page(record.model_copy(update={"accepted": False, "checks": checks})))
    assert "Rejected1 of 5 checks failed; nothing was published" in outline.text
    order = [outline.text.index(check.reason) for check in checks]
    assert min(order) == order[2]
    assert [tag.get("class") for tag in outline.all("li")][:5] == ["failed", *["passed"] * 4]


def test_page_refers_to_no_other_file(record: BuildRecord) -> None:
    document = page(record)
    outline = Outline(document)
    names = {name for name, _ in outline.tags}
    assert not names & {"script", "link", "img", "iframe", "object", "embed", "base", "form"}
    assert not re.search(r"https?:|url\(|@import|//[a-z]", document)
    policy = next(tag for tag in outline.all("meta") if tag.get("http-equiv"))
    assert policy["content"] == "default-src 'none'; style-src 'unsafe-inline'"
    assert "prefers-color-scheme: dark" in document
    assert "@media print" in document
    assert any(tag.get("name") == "viewport" for tag in outline.all("meta"))


def test_page_has_text_for_screen_readers(record: BuildRecord) -> None:
    outline = Outline(page(record))
    assert len(outline.ids) == len(set(outline.ids)), "ids must be unique"
    assert len(outline.all("caption")) == len(outline.all("table")) > 8
    assert len(outline.all("svg")) == 4  # latency, trade-off, two losses
    for tag in outline.all("svg"):
        assert tag["role"] == "img"
        assert set(str(tag["aria-labelledby"]).split()) <= set(outline.ids)
    for tag in outline.all("th"):
        assert tag["scope"] in ("col", "row")
    for tag in outline.all("section"):
        assert tag["aria-labelledby"] in outline.ids


def test_hostile_names_stay_text(record: BuildRecord) -> None:
    step = record.steps[1]
    details: dict[str, Any] = {
        "sensitivity": {EVIL: 0.1},
        "ranges": {EVIL: [0.0, 1.0]},
        "kept": [EVIL],
        "pruned": {EVIL: [8, 4]},
        "sparsity": {EVIL: 0.5},
        EVIL: EVIL,
        "losses": [EVIL],
    }
    assert record.search is not None
    trials = [
        trial.model_copy(update={"title": EVIL, "reason": EVIL}) for trial in record.search.trials
    ]
    search = record.search.model_copy(
        update={"trials": trials, "objective": EVIL, "contributions": ((EVIL, 0.1, -1.0),)}
    )
    others = {EVIL: Score(value=0.5, low=0.4, high=0.6, samples=9)}
    evil = record.model_copy(
        update={
            "name": EVIL,
            "target": EVIL,
            "fastest": "x",
            "random_weights": True,
            "baseline": record.baseline.model_copy(update={"others": others}),
            "other_baselines": {f"{EVIL}2": record.baseline},
            "metric": EVIL,
            "measured_at": EVIL,
            "recipe": {"model": {"source": f"python:{EVIL}"}, EVIL: [EVIL]},
            "checks": [record.checks[0].model_copy(update={"name": EVIL, "reason": EVIL})],
            "failed_programs": {EVIL: EVIL},
            "left_out_programs": {EVIL: EVIL},
            "programs": {**record.programs, f"{EVIL}/x": record.programs["cpu-x86/aoti"]},
            "layers": (LayerSize(name=EVIL, baseline_bytes=4, bytes=1),),
            "versions": {EVIL: EVIL},
            "data": {EVIL: EVIL, "source": EVIL * 3},
            "machine": {EVIL: [EVIL]},
            "seconds": {EVIL: 1.0},
            "search": search,
            "steps": [
                step.model_copy(
                    update={"title": EVIL, "settings": {EVIL: EVIL}, "details": details}
                )
            ],
        }
    )
    document = page(evil)
    outline = Outline(document)
    assert "<script" not in document
    assert not [tag for _, tag in outline.tags if "onload" in tag]
    assert outline.text.count(EVIL) > 40


@pytest.mark.parametrize(
    ("fields", "missing"),
    [
        ({"search": None}, {"search"}),
        ({"steps": ()}, {"steps"}),
        ({"layers": ()}, {"layers"}),
        ({"programs": {}, "fastest": ""}, {"headline"}),
        (
            {
                "search": None,
                "steps": (),
                "layers": (),
                "versions": {},
                "data": {},
                "machine": {},
                "failed_programs": {},
                "seconds": {},
                "recipe": {},
            },
            {"search", "steps", "layers"},
        ),
    ],
)
def test_page_leaves_out_parts_that_a_build_lacks(
    record: BuildRecord, fields: dict[str, Any], missing: set[str]
) -> None:
    outline = Outline(page(record.model_copy(update=fields)))
    assert outline.sections == [section for section in SECTIONS if section not in missing]
    assert [tag["href"] for tag in outline.all("a")] == [
        f"#{section}" for section in outline.sections
    ]


def test_page_warns_of_random_weights(record: BuildRecord) -> None:
    recipe = {**record.recipe, "model": {"source": "torchvision:resnet18"}}
    outline = Outline(page(record.model_copy(update={"random_weights": True, "recipe": recipe})))
    assert "The weights were never trained." in outline.text
    assert outline.text.index("never trained") < outline.text.index("At a glance")


def test_page_warns_that_a_factory_may_leave_random_weights(record: BuildRecord) -> None:
    outline = Outline(page(record.model_copy(update={"random_weights": True})))
    assert "No weights were given and none were trained." in outline.text
    assert "Unless python:cifar_resnet:resnet56 loads weights itself" in outline.text
    assert "never trained" not in outline.text


BETTER = {"mean": [0.5], "std": [0.25], "accuracy": 0.9, "stated_accuracy": 0.79, "samples": 200}


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"data": {"largest_class_share": 0.84}}, "The baseline's accuracy is near chance."),
        ({"source_check": {"card_accuracy": 0.95}}, "The baseline's accuracy is below its card."),
        (
            {"source_check": {"better_normalization": BETTER}},
            "With mean [0.5] and std [0.25] the model before compression is right on 90.00 % of "
            "200 validation samples, with the recipe's on 79.00 %.",
        ),
    ],
)
def test_page_begins_with_doubts_about_scores(
    record: BuildRecord, fields: dict[str, Any], sentence: str
) -> None:
    doubted = BuildRecord.model_validate({**record.model_dump(), **fields})
    text = Outline(page(doubted)).text
    assert text.index(sentence) < text.index("Accepted")


def test_page_does_not_doubt_plausible_scores(record: BuildRecord) -> None:
    fields = {"data": {"largest_class_share": 0.1}, "source_check": {"card_accuracy": 0.85}}
    assert cautions(BuildRecord.model_validate({**record.model_dump(), **fields})) == []


def test_page_separates_left_out_from_failed_programs(record: BuildRecord) -> None:
    out = {"cpu-x86/openvino": "Too big: it is 9 bytes to load."}
    outline = Outline(page(record.model_copy(update={"left_out_programs": out})))
    titles = [
        outline.text.index(f"Programs that {ending}") for ending in ("work, but", "do not work")
    ]
    reasons = [
        outline.text.index(why) for why in ("Too big: it is 9", "the graph holds an operator")
    ]
    assert titles[0] < reasons[0] < titles[1] < reasons[1]


def test_speed_up_compares_within_one_target(record: BuildRecord) -> None:
    gpu = record.programs["cpu-x86/openvino"].model_copy(update={"drop": None})
    programs = {**record.programs, "cuda-sm90/aoti": record.programs["cpu-x86/aoti"]}
    document = page(
        record.model_copy(update={"other_baselines": {"cuda-sm90": gpu}, "programs": programs})
    )
    rows = re.findall(r'<th scope="row">([^<]*)</th><td class="number">1</td>(.*?)</tr>', document)
    speed = {name: re.findall(r"[\d.]+×", cells) for name, cells in rows}
    assert speed["cpu-x86/aoti"] == ["4.48×"]
    assert speed["cuda-sm90/aoti"] == ["0.648×"]
    assert speed["baseline on cuda-sm90"] == ["1.00×"]


def test_search_without_measurements_has_no_chart(record: BuildRecord) -> None:
    assert record.search is not None
    failed = record.search.trials[-1]
    search = record.search.model_copy(update={"trials": (failed,), "chosen": None})
    outline = Outline(page(record.model_copy(update={"search": search})))
    assert "tradeoff-chart-title" not in outline.ids
    assert "chosennone" in outline.text


def test_page_emphasizes_winner_and_chosen_trial(record: BuildRecord) -> None:
    document = page(record)
    marked = re.findall(r'<tr class="marked"><th scope="row">([^<]*)', document)
    assert marked == [
        "cpu-x86/openvino",  # its score
        *["cpu-x86/openvino"] * 3,  # its latency, by batch
        "#11 prune structured 0.4, quantize static_int8",
    ]
    assert document.count('class="trial chosen"') == 2  # its bubble and its number
    assert 'class="envelope"' in document
    assert "accuracy budget" in document


def test_tables_align_numbers_right_and_names_left(record: BuildRecord) -> None:
    document = page(record)
    assert '<th scope="col">package</th><th scope="col" class="number">version</th>' in document
    assert re.search(r'<th scope="row">openvino</th><td class="number">2026', document)
    assert re.search(
        r'<th scope="row">cpu-x86/aoti</th><td class="number">84\.75 %</td><td>', document
    )


def test_template_with_unknown_name_raises(tmp_path: Path) -> None:
    strict = environment(tmp_path)
    (tmp_path / "page.html.j2").write_text("{{ view.titel }}{{ name }}")
    with pytest.raises(UndefinedError, match="titel"):
        strict.get_template("page.html.j2").render(view={}, name="<b>")


def test_templates_never_disable_escaping() -> None:
    for template in TEMPLATES.iterdir():
        assert not re.search(r"\bsafe\b|autoescape", template.read_text()), template.name


def step_with(record: BuildRecord, **details: Any) -> StepRecord:
    return record.steps[2].model_copy(update={"details": details})


@pytest.mark.parametrize(
    "details",
    [
        {"losses": [float("nan"), 0.5]},
        {"losses": [0.5]},
        {"losses": [0.0, 0.0]},
        {"sensitivity": {"a": float("nan")}},
        {"sensitivity": {"a": 0.0, "b": 0.0}},
        {"sensitivity": "not made"},
        {"ranges": {"a": [float("-inf"), 1.0]}},
        {"ranges": {"a": [0.0, 0.0]}},
        {"ranges": {"a": "wide"}},
        {"pruned": {"a": [0, 0]}},
        {"kept": "all"},
        {"anything": {"nested": [1, None]}},
        {"losses": [], "sensitivity": {}, "kept": ()},
    ],
)
def test_page_survives_malformed_findings(record: BuildRecord, details: dict[str, Any]) -> None:
    changed = record.model_copy(update={"steps": (step_with(record, **details),)})
    outline = Outline(page(changed))
    assert "quantize static_int8" in outline.text
    assert "nan%" not in page(changed)


def test_page_folds_many_layers(record: BuildRecord) -> None:
    drops = {f"layer{i:03}": i / 1000 for i in range(100)}
    outline = Outline(
        page(record.model_copy(update={"steps": (step_with(record, sensitivity=drops),)}))
    )
    assert "80 more" in outline.text
    assert (
        outline.text.index("layer099")
        < outline.text.index("layer080")
        < outline.text.index("80 more")
    )


def test_page_shows_other_metrics_without_percent(record: BuildRecord) -> None:
    outline = Outline(page(record.model_copy(update={"metric": "cosine"})))
    assert "0.8470" in outline.text
    assert "84.70 %" not in outline.text


def test_gain_has_a_sign(record: BuildRecord) -> None:
    better = record.programs["cpu-x86/openvino"].model_copy(
        update={"drop": Drop(mean=-0.004, upper=0.002, confidence=0.95)}
    )
    programs = {**record.programs, "cpu-x86/openvino": better}
    outline = Outline(page(record.model_copy(update={"programs": programs})))
    assert "+0.40" in outline.text
    assert "−0.20" in outline.text
